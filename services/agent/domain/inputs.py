"""What a model is told: the files of an input, and the conversation that it goes on with."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from services.agent.errors import InputFileRefused
from services.agent.input_files import FileMissing, FileTooLarge, InputFiles
from services.agent.models.executions import Exchange, Execution, InputFile
from services.agent.providers import AssistantTurn, Image, Turn, UserTurn
from services.agent.repository.executions import ExecutionRows
from services.kit.database import Database
from services.kit.errors import FieldViolation

MAX_TEXT_FILE_BYTES = 512 * 1024
MAX_IMAGE_BYTES = 5 * 1024 * 1024
MAX_EARLIER_EXCHANGES = 100
MAX_EARLIER_CHARACTERS = 256 * 1024
MAX_EARLIER_FILE_BYTES = 16 * 1024 * 1024

TEXT = "text/plain"


async def read_files(files: InputFiles, file_ids: Sequence[UUID], *, takes_images: bool) -> Sequence[InputFile]:
    """The files of a new execution, as they are now. Raises InputFileRefused, DependencyUnavailable."""
    return [
        await _read(files, f"file_ids[{index}]", file_id, takes_images=takes_images)
        for index, file_id in enumerate(file_ids)
    ]


async def _read(files: InputFiles, field: str, file_id: UUID, *, takes_images: bool) -> InputFile:
    try:
        found = await files.read(file_id, MAX_IMAGE_BYTES)
    except FileMissing as error:
        raise _refused(field, "there is no such file, or you may not read it") from error
    except FileTooLarge as error:
        raise _refused(field, f"must have at most {MAX_IMAGE_BYTES} bytes") from error
    kind = content_type_of(found.content)
    if kind is None:
        raise _refused(field, "must be text in UTF-8, or a PNG, JPEG, GIF or WebP image")
    if kind == TEXT and len(found.content) > MAX_TEXT_FILE_BYTES:
        raise _refused(field, f"must have at most {MAX_TEXT_FILE_BYTES} bytes, being text")
    if kind != TEXT and not takes_images:
        raise _refused(field, "is an image, and the agent's model does not see images")
    return InputFile(file_id, found.filename, kind, found.content)


def content_type_of(content: bytes) -> str | None:
    """What bytes are, by themselves: an image that models take, text, or neither."""
    for start, kind in ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif")):
        if content.startswith(start):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    try:
        return None if "\0" in content.decode() else TEXT
    except UnicodeDecodeError:
        return None


def _refused(field: str, problem: str) -> InputFileRefused:
    return InputFileRefused(fields=[FieldViolation(field, problem)])


async def read_turns(db: Database, execution: Execution, *, takes_images: bool) -> Sequence[Turn]:
    """The conversation that an execution goes on with, as far back as it fits, and what the user says now."""
    async with db.read() as tx:
        rows = ExecutionRows(tx)
        earlier: Sequence[Exchange] = ()
        if execution.conversation_id:
            earlier = await rows.earlier(
                execution,
                MAX_EARLIER_EXCHANGES,
                characters=MAX_EARLIER_CHARACTERS,
                file_bytes=MAX_EARLIER_FILE_BYTES,
            )
        files = _by_execution(await rows.input_files([execution.id, *(exchange.id for exchange in earlier)]))
    turns: list[Turn] = [user_turn(execution.input, files.get(execution.id, ()), takes_images=takes_images)]
    characters = 0
    for exchange in earlier:  # The latest first.
        said = user_turn(exchange.input, files.get(exchange.id, ()), takes_images=takes_images)
        characters += len(said.text) + len(exchange.output)
        if characters > MAX_EARLIER_CHARACTERS:
            break
        turns[:0] = [said, AssistantTurn(exchange.output)]
    return turns


def user_turn(said: str, files: Sequence[InputFile], *, takes_images: bool) -> UserTurn:
    """What the user says, with the files that belong to it."""
    parts, images = [said], []
    for file in files:
        if file.content_type == TEXT:
            parts.append(f'<file name="{_attribute(file.filename)}">\n{file.content.decode()}\n</file>')
        elif takes_images:
            images.append(Image(file.content_type, file.content))
        else:  # The agent had another model then.
            parts.append(f'<file name="{_attribute(file.filename)}">(an image)</file>')
    return UserTurn("\n\n".join(parts), tuple(images))


def _attribute(filename: str) -> str:
    return filename.replace('"', "'").replace("\n", " ")


def _by_execution(found: Iterable[tuple[UUID, InputFile]]) -> dict[UUID, list[InputFile]]:
    files: dict[UUID, list[InputFile]] = {}
    for execution_id, file in found:
        files.setdefault(execution_id, []).append(file)
    return files
