"""`parley files`: what is kept of files, looked at beside the running services."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeAlias

import typer

# What `open_verification` gives: the command line sees a service through its wiring only.
Verification: TypeAlias = Any

EXIT_FOUND = 1

files = typer.Typer(
    name="files",
    help="What is kept of files. Run it with the settings of the file service.",
    no_args_is_help=True,
)


@files.callback()
def _files() -> None:
    """A group, though it has one command so far."""


@dataclass
class Report:
    """What was found."""

    bytes_read: int = 0
    parts_read: int = 0
    damaged: list[dict[str, Any]] = field(default_factory=list)
    orphans: list[dict[str, Any]] = field(default_factory=list)
    orphans_removed: int = 0

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong any more."""
        return not self.damaged and len(self.orphans) == self.orphans_removed


@files.command()
def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove parts that belong to nothing; nothing else is ever changed.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end, and nothing else.")
    ] = False,
) -> None:
    """Read all that is kept, and compare it with its checksums; and find parts in the store that belong to nothing.

    Parts that belong to nothing are reported if they are more than a day old.

    The exit code is 1 if something was found that remains.
    """
    from services.cli.operation import operate
    from services.file.settings import FileStoreSettings
    from services.file.wiring import open_verification

    async def work(verification: Verification) -> Report:
        return await _verify(verification, repair=repair, quiet=as_json)

    report = operate("files", FileStoreSettings, open_verification, work)
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        print(f"{report.parts_read} parts with {report.bytes_read} bytes read: {_summary(report)}")
    if not report.is_well:
        raise typer.Exit(EXIT_FOUND)


async def _verify(verification: Verification, *, repair: bool, quiet: bool) -> Report:
    report = Report()

    def say(line: str) -> None:
        if not quiet:
            print(line)

    with _progress(await verification.count_bytes()) as advance:

        def on_read(size: int) -> None:
            report.parts_read += 1
            report.bytes_read += size
            advance(size)

        async for found in verification.find_damage(on_read):
            whose = f"file {found.file_id}" if found.file_id else f"upload {found.upload_id}"
            say(f"{found.damage}: {whose}, from byte {found.offset_bytes} on{f': {found.key}' if found.key else ''}")
            file_id = str(found.file_id) if found.file_id else None
            report.damaged.append(asdict(found) | {"upload_id": str(found.upload_id), "file_id": file_id})
    async for orphans in verification.find_orphans():
        if repair:
            await verification.remove(orphans)
            report.orphans_removed += len(orphans)
        for orphan in orphans:
            say(f"orphan{', removed' if repair else ''}: {orphan.key}, {orphan.size_bytes} bytes")
            report.orphans.append({"key": orphan.key, "size_bytes": orphan.size_bytes})
    return report


def _summary(report: Report) -> str:
    found = [
        f"{len(report.damaged)} damaged" if report.damaged else "",
        f"{len(report.orphans)} that belong to nothing" if report.orphans else "",
        f"{report.orphans_removed} of them removed" if report.orphans_removed else "",
    ]
    return ", ".join(filter(None, found)) or "all is well"


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """What is to be told how many bytes were read; it shows how far it is, where there is a terminal."""
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (*Progress.get_default_columns()[:-1], DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("reading what is kept", total=max(total, 1))
        yield lambda size: progress.advance(bar, size)
