"""Calls that are made again until the service is there for them, or there is no point."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from parley.file.v1.error_reason_pb2 import (
    ERROR_REASON_CHUNK_CORRUPT,
    ERROR_REASON_OFFSET_MISMATCH,
    ErrorReason,
)
from services.cli.client.caller import Caller
from services.cli.client.calls import failure_of, failures
from services.cli.client.ending import Away, Failed
from services.cli.client.patience import Patience
from services.kit.errors import CallTooLong, Overloaded

R = TypeVar("R")

STREAM_SECONDS = 3600.0


def reason(value: ErrorReason.ValueType) -> str:
    """A reason as ErrorInfo has it."""
    return ErrorReason.Name(value).removeprefix("ERROR_REASON_")


# They may be over with another stream, which goes on where the server says.
_PASSING = frozenset(
    {
        CallTooLong.reason,
        Overloaded.reason,
        reason(ERROR_REASON_CHUNK_CORRUPT),
        reason(ERROR_REASON_OFFSET_MISMATCH),
    }
)


def is_passing(failure: Failed) -> bool:
    """Whether it is worth while to try again."""
    return isinstance(failure, Away) or failure.retry_after is not None or failure.reason in _PASSING


async def insisting(patience: Patience, work: Callable[[], Awaitable[R]]) -> R:
    """Do something again until it is done. Raises Failed if it never will be, or patience ends."""
    while True:
        try:
            return await work()
        except Failed as failure:
            if not is_passing(failure):
                raise
            await patience.wait_after(failure)


async def with_token(caller: Caller, stream: Callable[[str], Awaitable[R]], received: Callable[[], int]) -> R:
    """Do something on a stream, and again with another token when its token has expired. Raises Failed.

    A new token that is refused before anything more was received is a failure.
    """
    token, is_new = await caller.credentials.token(), False
    while True:
        before = received()
        try:
            return await stream(token)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error, caller.target)
            if isinstance(failure, Away) or (is_new and received() == before):
                raise failure from error
            with failures(caller.target):
                token, is_new = await caller.token_after(error, token), True


@dataclass(frozen=True)
class Pace:
    """How long things may take, in seconds."""

    quiet_seconds: float
    """How long an upload's stream may stay open with nothing to send."""
    give_up_seconds: float
    """How long a transfer may come no further."""

    @property
    def stall_seconds(self) -> float:
        """How long nothing may go through a stream before another one is tried."""
        return self.give_up_seconds / 2


class Watch:
    """Whether a stream still moves."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moved = asyncio.get_running_loop().time()
        self.is_held_up = False
        """Whether it is no fault of the service's that nothing moves."""

    def moved(self) -> None:
        """Something went through."""
        self._moved = asyncio.get_running_loop().time()

    def left(self) -> float:
        """How long it may still do nothing."""
        if self.is_held_up:
            self.moved()
        return max(0.0, self._moved + self._seconds - asyncio.get_running_loop().time())
