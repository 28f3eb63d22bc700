"""The calls that are being handled, so that a server that stops can wait for every one of them."""

import asyncio
from typing import Protocol


class Drainable(Protocol):
    """A call in flight."""

    task: asyncio.Task[object] | None

    def end_for_drain(self) -> None:
        """End now, telling the client to connect elsewhere."""


class InFlight:
    """A register of calls. gRPC's own `stop` returns before handlers have run their `finally`; this one does not."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._unary = 0
        self._streams = 0
        self._followers: set[Drainable] = set()
        self._others: set[Drainable] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def count(self, *, streaming: bool) -> int:
        """How many unary calls, or streams, are being handled."""
        return self._streams if streaming else self._unary

    def enter(self, call: Drainable, *, streaming: bool, follower: bool) -> None:
        """A call has begun."""
        self._empty.clear()
        call.task = asyncio.current_task()
        (self._followers if follower else self._others).add(call)
        if streaming:
            self._streams += 1
        else:
            self._unary += 1

    def leave(self, call: Drainable, *, streaming: bool) -> None:
        """The call is over: its handler's `finally` has run, and its status was given to gRPC."""
        self._followers.discard(call)
        self._others.discard(call)
        if streaming:
            self._streams -= 1
        else:
            self._unary -= 1
        if not self._unary and not self._streams:
            self._empty.set()

    def drain(self) -> None:
        """Tell every long stream that the server is about to stop."""
        self.draining.set()
        for call in list(self._followers):
            call.end_for_drain()

    def end_all(self) -> None:
        """The grace is nearly over: tell who is still there, while it can be told."""
        for call in [*self._followers, *self._others]:
            call.end_for_drain()

    async def wait_empty(self, seconds: float) -> bool:
        """Wait until no call is left, at most so long; whether none is."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
