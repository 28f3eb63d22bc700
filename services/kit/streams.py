"""The two directions of a stream: messages from the client, decoded and checked, and messages to it."""

import asyncio
from time import monotonic
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from services.kit.errors import CallTooLong
from services.kit.messages import AnyDecoder

Req = TypeVar("Req")
Resp = TypeVar("Resp", bound=Message)

DRAIN_BYTES = 1024 * 1024 * 1024
DRAIN_SECONDS = 10.0
# For a call that is ended from outside: whose session was revoked is to hear of it within 5 seconds, and who does not
# read makes room for others in as long.
ENDED_DRAIN_SECONDS = 2.0
QUIET_SECONDS = 0.5


class Requests(Generic[Req]):
    """The client's messages in order: `async for request in requests`.

    A message that is not valid raises ValidationFailed or RequestMalformed; whoever handles that may go on reading.
    Only one task reads at a time. It may be cancelled: the read under it goes on (gRPC would take a cancelled one for
    the end of the stream), and what it brings is the next message.
    """

    def __init__(self, context: Any, decoder: AnyDecoder, *, answers: bool = False) -> None:
        self._context = context
        self._decoder = decoder
        self._answers = answers
        self._reading: asyncio.Task[Any] | None = None
        self._fell_silent = False
        self.ended = False
        """Whether the client has half-closed."""

    def __aiter__(self) -> "Requests[Req]":
        return self

    async def __anext__(self) -> Req:
        request = await self.receive()
        if request is None:
            raise StopAsyncIteration
        return request

    async def receive(self, idle_timeout: float | None = None) -> Req | None:
        """The next message, or None when the client has half-closed. Raises CallTooLong when it stays silent."""
        raw = await self._read(idle_timeout)
        return None if raw is None else self._decoder.decode(raw)

    async def comes_within(self, seconds: float) -> bool:
        """Whether there is a message, or the end of them, now or within so long; `receive` gives it."""
        return self.ended or bool((await asyncio.wait((self._begun(),), timeout=seconds))[0])

    def _begun(self) -> asyncio.Task[Any]:
        """The read under way, which is begun if there is none."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._context.read())
        return self._reading

    async def _read(self, seconds: float | None) -> bytes | None:
        """The next message's bytes, or None when the client has half-closed."""
        if self.ended:
            return None
        reading = self._begun()
        if seconds is None:
            raw = await asyncio.shield(reading)
        elif await self.comes_within(seconds):
            raw = reading.result()
        else:
            self._fell_silent = True
            raise CallTooLong("Nothing came from the client for too long.")
        self._reading = None
        if raw is grpc.aio.EOF:
            self.ended = True
            return None
        return raw  # type: ignore[no-any-return]  # gRPC's read is untyped: bytes, as no deserializer is set

    async def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Read to the client's half-close and pass it all over, within bounds, before the call is refused.

        A client that is still writing when the status comes would see INTERNAL in place of it.
        """
        ends_at = monotonic() + seconds
        passed_over = 0
        while (
            not self.ended
            and not self._fell_silent
            and passed_over < DRAIN_BYTES
            and (left := ends_at - monotonic()) > 0
        ):
            try:
                raw = await self._read(min(left, QUIET_SECONDS) if self._answers else left)
            except CallTooLong:
                return
            passed_over += len(raw or b"")

    def close(self) -> None:
        """Give up a read that is still waiting. The call is over then."""
        self.ended = True
        if self._reading is not None:
            self._reading.add_done_callback(_passed_over)
            self._reading.cancel()


class Responses(Generic[Resp]):
    """The messages to the client, one at a time and in order, from any number of tasks.

    A task that sends may be cancelled: the write under it goes on, and the next one waits for it. gRPC would take a
    cancelled write for one that never was, and the status of the call would never get out.
    """

    def __init__(self, context: Any) -> None:
        self._context = context
        self._turn = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None

    async def send(self, response: Resp | bytes) -> None:
        """Send one message, or one that is serialised already. It waits while the client does not read."""
        raw = response if isinstance(response, bytes) else response.SerializeToString()
        async with self._turn:
            await self.settle()
            self._writing = asyncio.ensure_future(self._context.write(raw))
            await asyncio.shield(self._writing)
            self._writing = None

    async def settle(self, seconds: float | None = None) -> None:
        """Wait, at most so long, for a write whose sender was cancelled. If it failed, the next one fails, too."""
        if self._writing is not None:
            done, _ = await asyncio.wait((self._writing,), timeout=seconds)
            if done:
                _passed_over(self._writing)
                self._writing = None

    def close(self) -> None:
        """Give up a write that is still waiting. The call is over then."""
        if self._writing is not None:
            self._writing.add_done_callback(_passed_over)
            self._writing.cancel()


class Stream(Generic[Req, Resp]):
    """Both directions of a bidirectional call."""

    def __init__(self, requests: Requests[Req], responses: Responses[Resp]) -> None:
        self.requests = requests
        self.send = responses.send
        """Send one message, or one that is serialised already. It waits while the client does not read."""


def _passed_over(ended: asyncio.Future[Any]) -> None:
    if not ended.cancelled():
        ended.exception()  # Looked at, so that asyncio does not report it as forgotten.
