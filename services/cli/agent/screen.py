"""The answer of an execution as it comes: text on stdout, and what else happens on stderr."""

import json
import sys
from typing import Protocol

from rich.console import Console
from rich.text import Text

from parley.agent.v1 import execution_service_pb2 as pb2
from services.cli.client.writing import as_json, one_line, print_json, printable

NOTE_CHARACTERS = 200


class Screen(Protocol):
    """Where an execution is shown."""

    def began(self, execution: pb2.Execution) -> None:
        """It was created."""

    def event(self, event: pb2.ExecutionEvent) -> None:
        """It did something."""

    def gap(self, gap: pb2.Gap) -> None:
        """Some events are not kept any more."""

    def note(self, text: str) -> None:
        """Something happened on the way."""

    def ended(self, execution: pb2.Execution) -> None:
        """It has ended, and this is all of it."""


class JsonScreen:
    """For programs: each event is a line of JSON on stdout, between the execution as it began and as it ended."""

    def began(self, execution: pb2.Execution) -> None:
        """As Screen has it."""
        print_json({"execution": as_json(execution)})

    def event(self, event: pb2.ExecutionEvent) -> None:
        """As Screen has it."""
        print_json({"event": as_json(event)})

    def gap(self, gap: pb2.Gap) -> None:
        """As Screen has it."""
        print_json({"gap": as_json(gap)})

    def note(self, text: str) -> None:
        """As Screen has it."""
        sys.stderr.write(f"parley: {text}\n")

    def ended(self, execution: pb2.Execution) -> None:
        """As Screen has it."""
        print_json({"execution": as_json(execution)})


class TextScreen:
    """For people. On a terminal the text is shown as it comes.

    Elsewhere it is written when it is whole: an attempt that follows a lost one may say something else, and what has
    gone into a pipe cannot be taken back.
    """

    def __init__(self) -> None:
        self._shows = sys.stdout.isatty()
        self._notes = Console(stderr=True, highlight=False, soft_wrap=True)
        self._start: int | None = None
        self._text = bytearray()
        self._replaced: bytes | None = None
        """What stands there of a lost attempt, until the next one has said as much, or something else."""
        self._has_gap = False
        self._line_is_open = False

    def began(self, execution: pb2.Execution) -> None:
        """As Screen has it."""
        self.note(f"execution {execution.id}")

    def event(self, event: pb2.ExecutionEvent) -> None:
        """As Screen has it."""
        match event.WhichOneof("event"):
            case "text_delta":
                self._put(event.text_delta.offset, event.text_delta.text)
            case "tool_call":
                self.note(f"→ {event.tool_call.name} {_arguments(event.tool_call)}")
            case "tool_result":
                sign = "✗" if event.tool_result.is_error else "←"
                self.note(f"{sign} {event.tool_result.text}")
            case "state_changed" if event.state_changed.attempt > 1 and _runs(event.state_changed):
                self.note(f"it begins again: attempt {event.state_changed.attempt}")
            case _:
                pass

    def gap(self, gap: pb2.Gap) -> None:
        """As Screen has it."""
        self._has_gap = True
        self.note(f"the events {gap.first_sequence} to {gap.last_sequence} are no longer kept")

    def note(self, text: str) -> None:
        """As Screen has it."""
        self._close_line()
        self._notes.print(Text(one_line(text, NOTE_CHARACTERS), style="dim"))

    def ended(self, execution: pb2.Execution) -> None:
        """As Screen has it."""
        if self._has_gap:
            self._put(0, execution.output)
        if not self._shows:
            self._write(bytes(self._text))
        elif self._replaced is not None:
            self._begin_again()
        self._close_line()
        state = pb2.ExecutionState.Name(execution.state).removeprefix("EXECUTION_STATE_")
        said = f"{state}: {execution.failure.message}" if execution.failure.message else state
        seconds = execution.end_time.ToMicroseconds() / 1e6 - execution.create_time.ToMicroseconds() / 1e6
        used = f"{execution.usage.input_tokens} tokens in, {execution.usage.output_tokens} out"
        self._notes.print(Text(f"{printable(said)} · {seconds:.1f} s · {used}", style="dim"))

    def _put(self, offset: int, text: str) -> None:
        """Text from there on, in bytes of UTF-8: it takes the place of all that was there."""
        data = text.encode()
        self._start = offset if self._start is None else self._start
        at = offset - self._start
        if at != len(self._text):
            self._replaced = bytes(self._text) if self._replaced is None else self._replaced
            self._start = min(self._start, offset)
            del self._text[max(at, 0) :]
        self._text += data
        if self._shows:
            self._show(data)

    def _show(self, data: bytes) -> None:
        if self._replaced is None:
            self._write(data)
        elif self._text.startswith(self._replaced):
            data, self._replaced = bytes(self._text[len(self._replaced) :]), None
            self._write(data)
        elif not self._replaced.startswith(self._text):
            self._begin_again()

    def _begin_again(self) -> None:
        self._replaced = None
        self.note("the answer begins again")
        self._write(bytes(self._text))

    def _write(self, data: bytes) -> None:
        text = data.decode()
        sys.stdout.write(printable(text) if self._shows else text)
        sys.stdout.flush()
        self._line_is_open = not text.endswith("\n") if text else self._line_is_open

    def _close_line(self) -> None:
        if self._line_is_open:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._line_is_open = False


def _arguments(call: pb2.ExecutionEvent.ToolCall) -> str:
    return json.dumps(as_json(call.arguments), ensure_ascii=False)


def _runs(change: pb2.ExecutionEvent.StateChanged) -> bool:
    return change.state == pb2.EXECUTION_STATE_RUNNING
