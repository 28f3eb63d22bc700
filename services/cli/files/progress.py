"""What is seen of transfers: bars on a terminal, and what is said of each."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import filesize
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from services.cli.client.ending import Failed
from services.cli.client.writing import one_line, printable
from services.cli.files.blocking import descriptor_of

NAME_CHARACTERS = 30
NOTE_CHARACTERS = 300


class Screen:
    """Bars on stderr, if that is a terminal; results on stdout; what else there is to say on stderr."""

    def __init__(self, *, files: int, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            redirect_stdout=False,  # Rich would send it to stderr.
        )
        self._in_all = self._bars.add_task("in all", total=0.0) if files > 1 else None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The bars are there for as long as the block."""
        with self._bars:
            yield

    def expect(self, size: int) -> None:
        """So many bytes will be among the transfers."""
        if self._in_all is not None:
            self._bars.update(self._in_all, total=(self._task(self._in_all).total or 0.0) + size)

    @contextmanager
    def bar(self, name: str, size: int | None, done: int) -> Iterator["Bar"]:
        """A transfer of so many bytes, of which some were there before, for as long as the block."""
        task = self._bars.add_task(one_line(name, NAME_CHARACTERS), total=size, completed=done)
        if self._in_all is not None:
            self._task(self._in_all).completed += done  # and no part of the rate
        try:
            yield Bar(self._bars, task, self._in_all, done)
        finally:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        """Something happened on the way."""
        self._console.print(Text(one_line(text, NOTE_CHARACTERS), style="dim"))

    def result(self, text: str, value: Any) -> None:
        """A transfer was carried out: a line for people, or a value for programs."""
        if self._as_json:
            text = json.dumps(value, ensure_ascii=False)
        stdout = descriptor_of(sys.stdout, "stdout")
        if self._console.is_terminal and os.isatty(stdout):
            self._console.print(Text(text))  # above the bars
            return
        try:
            os.write(stdout, f"{text}\n".encode())
        except OSError as error:
            raise Failed(f"stdout cannot be written: {error.strerror}: {text}") from error

    def failed(self, name: str, failure: Failed) -> None:
        """A transfer has failed."""
        for line in failure.lines:
            self._console.print(Text(f"parley: {name}: {printable(line)}"))

    def _task(self, task: TaskID) -> Any:
        return next(one for one in self._bars.tasks if one.id == task)


class Bar:
    """How far one transfer is."""

    def __init__(self, bars: Progress, task: TaskID, in_all: TaskID | None, done: int) -> None:
        self._bars = bars
        self._task = task
        self._in_all = in_all
        self._at = done

    def at(self, position: int) -> None:
        """So many bytes are through; after a cut that may be fewer than before."""
        self._bars.update(self._task, completed=position)
        if self._in_all is not None:
            self._bars.advance(self._in_all, position - self._at)
        self._at = position


def size_text(size: int) -> str:
    """A number of bytes for people."""
    return filesize.decimal(size)
