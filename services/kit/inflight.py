"""The calls that are being handled: a server that stops waits for each, and a revoked session ends its own."""

import asyncio
from typing import Protocol
from uuid import UUID

from services.kit.errors import DomainError, SessionRevoked, ShuttingDown


class Endable(Protocol):
    """A call in flight."""

    task: asyncio.Task[object] | None

    def end(self, failure: DomainError) -> None:
        """End now, with this failure."""

    async def verify_again(self) -> None:
        """End if the token is good no more."""


class InFlight:
    """A register of calls. gRPC's own `stop` returns before handlers have run their `finally`; this one does not."""

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._unary = 0
        self._streams = 0
        self._followers: set[Endable] = set()
        self._others: set[Endable] = set()
        self._of_session: dict[UUID, set[Endable]] = {}
        self._verifying: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def count(self, *, streaming: bool) -> int:
        """How many unary calls, or streams, are being handled."""
        return self._streams if streaming else self._unary

    def enter(self, call: Endable, *, streaming: bool, follower: bool) -> None:
        """A call has begun."""
        self._empty.clear()
        call.task = asyncio.current_task()
        (self._followers if follower else self._others).add(call)
        if streaming:
            self._streams += 1
        else:
            self._unary += 1

    def leave(self, call: Endable, *, streaming: bool) -> None:
        """The call is over: its handler's `finally` has run, and its status was given to gRPC."""
        self._followers.discard(call)
        self._others.discard(call)
        if streaming:
            self._streams -= 1
        else:
            self._unary -= 1
        if not self._unary and not self._streams:
            self._empty.set()

    def bind(self, call: Endable, session_id: UUID) -> None:
        """The call goes on for as long as this session does."""
        self._of_session.setdefault(session_id, set()).add(call)

    def unbind(self, call: Endable, session_id: UUID) -> None:
        """The call is over, or goes on with another session."""
        calls = self._of_session.get(session_id)
        if calls is not None:
            calls.discard(call)
            if not calls:
                del self._of_session[session_id]

    def end_session(self, session_id: UUID) -> None:
        """The session was revoked: so are the calls that are bound to it."""
        for call in list(self._of_session.get(session_id, ())):
            call.end(SessionRevoked())

    def verify_again(self) -> None:
        """A key is gone: so are the calls that are bound to a session and whose token it had signed."""
        if self._verifying is not None:
            self._verifying.cancel()
        self._verifying = asyncio.create_task(self._verify_one_by_one(), name="verify-again")

    async def _verify_one_by_one(self) -> None:
        for call in [call for calls in self._of_session.values() for call in calls]:
            await call.verify_again()
            await asyncio.sleep(0)  # Each may take 130 µs: others have their turn in between.

    def drain(self) -> None:
        """Tell every long stream that the server is about to stop."""
        self.draining.set()
        for call in list(self._followers):
            call.end(ShuttingDown())

    def end_all(self) -> None:
        """The grace is nearly over: tell who is still there, while it can be told."""
        for call in [*self._followers, *self._others]:
            call.end(ShuttingDown())

    async def wait_empty(self, seconds: float) -> bool:
        """Wait until no call is left, at most so long; whether none is."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
