"""`parley download`: files by their ids, several at a time, or one to stdout."""

import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.cli.client.caller import Caller
from services.cli.client.ending import EXIT_USAGE, Failed
from services.cli.client.patience import Patience
from services.cli.client.profiles import config_folder
from services.cli.client.writing import as_json
from services.cli.files.blocking import descriptor_of
from services.cli.files.insisting import Pace, insisting, is_passing
from services.cli.files.kept import Kept, remove_old
from services.cli.files.names import as_text, plain_name, shown
from services.cli.files.progress import Screen, size_text
from services.cli.files.receiving import Receiving, WrongBytes
from services.cli.files.targets import PartFile, Stdout
from services.cli.files.transfers import Transfer, Words, carry_out

STDOUT = "-"
AGAIN = "the same command again goes on with it"


@dataclass(frozen=True)
class What:
    """What is downloaded, and where it goes."""

    ids: Sequence[str]
    output: str
    """A file, a folder, STDOUT, or empty for the current folder."""
    force: bool
    offset: int
    limit: int


async def download_files(caller: Caller, what: What, screen: Screen, *, parallel: int, seconds: float) -> int:
    """Download all of it; the exit code. Raises Failed."""
    downloads = Downloads(caller, what, screen, Pace(seconds, seconds))
    await asyncio.to_thread(remove_old, downloads.folder)
    transfers = [Transfer(shown(id_), partial(downloads.download, id_)) for id_ in dict.fromkeys(what.ids)]
    words = Words("were not downloaded", "interrupted" if what.output == STDOUT else f"interrupted: {AGAIN}")
    return await carry_out(transfers, screen, words, parallel=parallel)


class Downloads:
    """The downloads of one run of the command."""

    def __init__(self, caller: Caller, what: What, screen: Screen, pace: Pace) -> None:
        self.folder = config_folder(os.environ) / "downloads"
        self._caller = caller
        self._files = FileServiceStub(caller.channel)
        self._what = what
        self._screen = screen
        self._pace = pace
        self._taken: dict[Path, str] = {}

    async def download(self, id_: str) -> None:
        """Download a file, and show where it is. Raises Failed."""
        patience = Patience(lambda text: self._screen.note(f"{shown(id_)}: {text}"), self._pace.give_up_seconds)
        request = pb2.GetFileRequest(id=id_)
        file = (await insisting(patience, partial(self._caller.call, self._files.GetFile, request))).file
        span = _span(file, self._what.offset, self._what.limit)
        self._screen.expect(span[1] - span[0])
        if self._what.output == STDOUT:
            with self._screen.bar(plain_name(file.filename, file.id), span[1] - span[0], 0) as bar:
                stdout = Stdout(descriptor_of(sys.stdout, "stdout"))
                await Receiving(
                    self._caller, file, span, stdout, bar=bar, patience=patience, pace=self._pace
                ).to_the_end()
            return
        path = self._path(file)
        kept = Kept(self.folder, str(path.absolute()))
        part = PartFile(path, kept, {"id": file.id, "span": list(span)}, force=self._what.force)
        try:
            await self._fill(part, file, span, patience)
        finally:
            part.close()
        self._screen.result(as_text(path), {"path": as_text(path), "file": as_json(file)})

    async def _fill(self, part: PartFile, file: pb2.File, span: tuple[int, int], patience: Patience) -> None:
        await part.take_stock()
        if part.size:
            self._screen.note(f"{shown(part.path)}: resumed at {size_text(part.size)}")
        try:
            with self._screen.bar(shown(part.path.name), span[1] - span[0], part.size) as bar:
                receiving = Receiving(self._caller, file, span, part, bar=bar, patience=patience, pace=self._pace)
                await receiving.to_the_end()
            await part.finish()
        except WrongBytes as wrong:
            part.mistrust()
            raise Failed(*wrong.lines, f"it is left in {shown(part.part)}, for you to look at and remove") from wrong
        except Failed as failure:
            raise Failed(*failure.lines, *([AGAIN] if is_passing(failure) else ())) from failure

    def _path(self, file: pb2.File) -> Path:
        """Where a file goes. Two of one run never go to one place."""
        output = Path(self._what.output)
        name = plain_name(file.filename, file.id)
        path = output / name if output.is_dir() else output
        other = self._taken.setdefault(path, file.id)
        if other != file.id:
            raise Failed(f"{shown(path)} is {other} already: download this one by itself, with --output")
        return path


def check_output(what: What) -> None:
    """Raise Failed where the output cannot be one for what is downloaded."""
    if what.output == STDOUT:
        if len(set(what.ids)) > 1:
            raise Failed("only one file can go to stdout", code=EXIT_USAGE)
        if os.isatty(descriptor_of(sys.stdout, "stdout")) and not what.force:
            raise Failed("stdout is a terminal, which a file could command: --force writes to it", code=EXIT_USAGE)
    elif not Path(what.output).is_dir() and (len(set(what.ids)) > 1 or what.output.endswith("/")):
        raise Failed(f"--output {shown(what.output)} is no folder", code=EXIT_USAGE)


def _span(file: pb2.File, offset: int, limit: int) -> tuple[int, int]:
    """From where to where, in bytes from the beginning. Raises Failed if that is beyond the end."""
    start = offset if offset >= 0 else max(0, file.size_bytes + offset)
    if start > file.size_bytes:
        raise Failed(f"--offset {offset} is beyond the end: the file has {file.size_bytes} bytes")
    return start, min(file.size_bytes, start + limit) if limit else file.size_bytes
