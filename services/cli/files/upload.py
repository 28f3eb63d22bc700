"""`parley upload`: files and stdin, several at a time."""

import asyncio
import mimetypes
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.error_reason_pb2 import ERROR_REASON_UPLOAD_TAKEN_OVER
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.cli.client.caller import Caller
from services.cli.client.ending import EXIT_FAILED, Failed
from services.cli.client.patience import Patience
from services.cli.client.profiles import config_folder
from services.cli.client.writing import as_json
from services.cli.files.begun import BegunUpload, is_hopeless
from services.cli.files.blocking import descriptor_of
from services.cli.files.insisting import Pace, insisting, is_passing, reason
from services.cli.files.kept import Kept, remove_old
from services.cli.files.names import as_text, shown
from services.cli.files.progress import Screen, size_text
from services.cli.files.sending import Sending
from services.cli.files.sources import FileSource, PipeSource, Source, SourceChanged
from services.cli.files.transfers import Transfer, Words, carry_out

STDIN = "-"
AGAIN = "the same command again goes on with it"


@dataclass(frozen=True)
class What:
    """What is uploaded, and what is said of it."""

    paths: Sequence[str]
    """STDIN among them stands for stdin."""
    name: str
    """Instead of the name of the only file."""
    content_type: str
    labels: Mapping[str, str]


async def upload_files(caller: Caller, what: What, screen: Screen, *, parallel: int, seconds: float) -> int:
    """Upload all of it; the exit code. Raises Failed."""
    paths = list(dict.fromkeys(what.paths))
    sound = list(_sound(paths, screen))
    if not sound:
        return EXIT_FAILED
    patience = Patience(screen.note, seconds)
    files = FileServiceStub(caller.channel)
    limits = await insisting(patience, partial(caller.call, files.GetUploadLimits, pb2.GetUploadLimitsRequest()))
    pace = Pace(limits.idle_timeout.ToMilliseconds() / 2000, seconds)
    folder = config_folder(os.environ) / "uploads"
    await asyncio.to_thread(remove_old, folder)
    uploads = Uploads(caller, what, screen, pace, folder, await caller.user_id())
    transfers = [Transfer(shown(path), partial(uploads.upload, path)) for path in sound]
    words = Words("were not uploaded", "interrupted" if sound == [STDIN] else f"interrupted: {AGAIN}")
    return await carry_out(transfers, screen, words, parallel=parallel, refused=len(paths) - len(sound))


def _sound(paths: Iterable[str], screen: Screen) -> Iterator[str]:
    """Those that can be read; what is wrong with the others is said."""
    for path in paths:
        try:
            if path != STDIN:
                source = FileSource(Path(path))
                source.close()
                screen.expect(source.length)
            yield path
        except Failed as failure:
            screen.failed(shown(path), failure)


class Uploads:
    """The uploads of one run of the command."""

    def __init__(self, caller: Caller, what: What, screen: Screen, pace: Pace, folder: Path, user_id: str) -> None:
        self._caller = caller
        self._what = what
        self._screen = screen
        self._pace = pace
        self._folder = folder
        self._user_id = user_id

    async def upload(self, path: str) -> None:
        """Upload a file, or stdin, and show what is stored. Raises Failed."""
        source = PipeSource(descriptor_of(sys.stdin, "stdin")) if path == STDIN else FileSource(Path(path))
        try:
            upload = self._begin(path, source)
            try:
                stored = await self._store(shown(path), source, upload)
            except BaseException as failure:
                if _is_of_no_use(failure, source):
                    await upload.cancel()
                raise
            upload.forget()
        finally:
            source.close()
        line = stored.id if len(self._what.paths) == 1 else f"{stored.id}  {shown(path)}"
        self._screen.result(line, {"path": as_text(path), "file": as_json(stored)})

    def _begin(self, path: str, source: FileSource | PipeSource) -> BegunUpload:
        filename = self._what.name or Path(path).name
        content_type = self._what.content_type or mimetypes.guess_type(filename)[0] or ""
        labels = self._what.labels
        try:
            start = pb2.UploadStart(filename=filename, content_type=content_type, labels=labels, size_bytes=source.size)
        except ValueError as error:  # so protobuf says it
            raise Failed("has a name that is not UTF-8: give it another one with --name") from error
        if isinstance(source, PipeSource):
            return BegunUpload(self._caller, start, None, [])
        place = (self._caller.target, self._user_id, str(Path(path).resolve()))
        kept = Kept(self._folder, *place, filename, content_type, sorted(labels.items()))
        return BegunUpload(self._caller, start, kept, source.version)

    async def _store(self, name: str, source: Source, upload: BegunUpload) -> pb2.File:
        patience = Patience(lambda text: self._screen.note(f"{name}: {text}"), self._pace.give_up_seconds)
        if upload.has_changed:
            self._screen.note(f"{name} has changed since it was begun: it is sent from its beginning")
        try:
            created = await upload.create(patience)
            if created.persisted_size:
                self._screen.note(f"{name}: resumed at {size_text(created.persisted_size)}")
            with self._screen.bar(name, source.size, created.persisted_size) as bar:
                sending = Sending(self._caller, source, created, bar=bar, patience=patience, pace=self._pace)
                return await sending.to_the_end()
        except Failed as failure:
            if failure.reason == reason(ERROR_REASON_UPLOAD_TAKEN_OVER):
                raise Failed("another command has gone on with this upload", reason=failure.reason) from failure
            if is_passing(failure) and isinstance(source, FileSource):
                raise Failed(*failure.lines, AGAIN) from failure
            raise


def _is_of_no_use(failure: BaseException, source: Source) -> bool:
    """Whether no run of the command could go on with an upload that has ended so."""
    if isinstance(source, PipeSource) or isinstance(failure, SourceChanged):
        return True
    return isinstance(failure, Failed) and is_hopeless(failure)
