"""One line for each step, with its time; and what is said when an answer is wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter

import grpc
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2
from rich.console import Console
from rich.markup import escape

STEP_SECONDS = 60.0


class WrongAnswer(Exception):
    """The suite answered, and not as it promises."""


class NotRunning(Exception):
    """Nothing answers where a service is expected."""


class Steps:
    """Writes the steps as they are done, in colour where there is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = perf_counter()
        self._done = 0

    @asynccontextmanager
    async def step(self, title: str) -> AsyncIterator[None]:
        """Do one step. Raises WrongAnswer, with the step's name, for whatever goes wrong in it."""
        started = perf_counter()
        try:
            async with asyncio.timeout(STEP_SECONDS):
                yield
        except (WrongAnswer, TimeoutError, grpc.aio.AioRpcError) as error:
            self._console.print(f"[red]✗[/] {escape(title)}  {_elapsed(started)}")
            raise WrongAnswer(f"{title}: {_described(error)}") from error
        self._done += 1
        self._console.print(f"[green]✓[/] {escape(title)}  [dim]{_elapsed(started)}[/]")

    def finish(self) -> None:
        """Say that all went well."""
        seconds = perf_counter() - self._started
        self._console.print(f"[bold]All {self._done} steps as promised, in {seconds:.1f} s.[/]")


def expect(found: object, wanted: object, what: str) -> None:
    """Raises WrongAnswer unless what was found is what was wanted."""
    if found != wanted:
        raise WrongAnswer(f"{what} is {_short(found)}, and should be {_short(wanted)}")


@contextmanager
def refused(code: grpc.StatusCode, reason: str, what: str) -> Iterator[None]:
    """The block must be refused with this code and reason."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        expect((error.code().name, reason_of(error)), (code.name, reason), f"the refusal of {what}")
    else:
        raise WrongAnswer(f"{what} was accepted, and should be refused with {reason}")


async def is_refused(answer: Awaitable[object], code: grpc.StatusCode, reason: str) -> bool:
    """Whether a call is refused with this code and reason. What else it fails with is raised."""
    try:
        await answer
    except grpc.aio.AioRpcError as error:
        if (error.code(), reason_of(error)) != (code, reason):
            raise
        return True
    return False


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in a failed call's ErrorInfo; empty if it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return reason_in(status_pb2.Status.FromString(value))
    return ""


def reason_in(status: status_pb2.Status) -> str:
    """The reason in a status's ErrorInfo; empty if it has none."""
    info = details_pb2.ErrorInfo()
    return next((info.reason for detail in status.details if detail.Unpack(info)), "")


def _described(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return " ".join(filter(None, (error.code().name, reason_of(error), error.details())))
    if isinstance(error, TimeoutError):
        return f"no answer within {STEP_SECONDS:.0f} s"
    return str(error)


def _elapsed(started: float) -> str:
    seconds = perf_counter() - started
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}…"
