"""The output of several processes as one stream of lines, each with the name of the process that wrote it."""

import json
import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

from services.kit.ids import utc_now

_LONGEST_LINE = 64 * 1024
_MOST_PENDING = 4 * 1024 * 1024


class Output:
    """Where lines go, in order. Writing never waits for whoever reads them.

    A terminal that is held with Ctrl-S, or a pipe that nobody empties, must not keep the processes from being
    looked after: up to 4 MiB wait for the reader, the rest is left out and counted. A reader that has gone
    away is no error either, as in `parley up | tee log` when Ctrl-C ends both.

    With `as_json` every line is one JSON object, whoever wrote it and however: `process` is the name, and a line
    that was text is the `event`.
    """

    _COLOURS: ClassVar[tuple[int, ...]] = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)

    def __init__(self, names: Iterable[str], *, fd: int = 1, colour: bool | None = None, as_json: bool = False) -> None:
        self.colour = os.isatty(fd) and "NO_COLOR" not in os.environ if colour is None else colour
        self._as_json = as_json
        names = list(names)
        self._width = max(map(len, names), default=0)
        self._paint = {name: self._COLOURS[number % len(self._COLOURS)] for number, name in enumerate(names)}
        self._fd = fd
        self._pending: deque[bytes] = deque()
        self._size = 0
        self._left_out = 0
        self._open = True
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write_all, name="output", daemon=True)
        self._writer.start()

    def say(self, text: str = "") -> None:
        """Write text of our own, without a name before it."""
        self._put(_json_line("parley", text.strip()) if self._as_json else f"{text}\n".encode())

    def line(self, name: str, line: bytes) -> None:
        """Write one line of the named process."""
        if self._as_json:
            self._put(_json_line(name, line.decode(errors="replace")))
            return
        prefix = f"{name:<{self._width}} | "
        if self.colour:
            prefix = f"\033[{self._paint.get(name, 37)}m{prefix}\033[0m"
        self._put(prefix.encode() + line + b"\n")

    def close(self) -> None:
        """Give the reader half a second for what is pending, and forget the rest."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._writer.join(0.5)

    def _put(self, data: bytes) -> None:
        with self._changed:
            if self._size + len(data) > _MOST_PENDING:
                self._left_out += 1
                return
            if self._left_out:
                words = f"({self._left_out} lines left out: nobody was reading)"
                data = (_json_line("parley", words) if self._as_json else f"{words}\n".encode()) + data
                self._left_out = 0
            self._pending.append(data)
            self._size += len(data)
            self._changed.notify()

    def _write_all(self) -> None:
        while data := self._take():
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                return  # the reader has gone; what comes now fills the bound and is left out

    def _take(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or not self._open)
            data = b"".join(self._pending)
            self._pending.clear()
            self._size = 0
            return data


def _json_line(name: str, line: str) -> bytes:
    """A line that is a JSON object already keeps its fields."""
    fields: Any = None
    if line.startswith("{"):
        with suppress(ValueError, RecursionError):
            fields = json.loads(line)
    if not isinstance(fields, dict):
        fields = {"event": line, "level": "info", "timestamp": utc_now().isoformat().replace("+00:00", "Z")}
    return json.dumps(fields | {"process": name}).encode() + b"\n"


class LineSplitter:
    """Turns what a pipe delivers into lines for an `Output`."""

    def __init__(self, output: Output, name: str) -> None:
        self._output = output
        self._name = name
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Write the lines that are complete. A line without an end is cut at 64 KiB, not collected for ever."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._output.line(self._name, line.rstrip(b"\r"))

    def finish(self) -> None:
        """Write what is left, when the process has ended."""
        if self._rest:
            self._output.line(self._name, self._rest)
            self._rest = b""
