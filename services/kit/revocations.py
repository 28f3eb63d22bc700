"""Sessions that ended before their access tokens expire, as a service that accepts tokens knows them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from heapq import heappop, heappush
from uuid import UUID

import grpc
import structlog

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit.background import in_background
from services.kit.faults import describe_fault
from services.kit.outage import Outage
from services.kit.status import reason_in

log = structlog.get_logger()

FIRST_RETRY = 0.2
LAST_RETRY = 1.0
# Auth says every 2 seconds that nothing has happened.
SILENCE_SECONDS = 5.0
CURSOR_INVALID = "CURSOR_INVALID"
FIRST_SECONDS = 3.0
"""How long after a process's start calls wait until it knows which sessions are revoked."""


class RevokedSessions:
    """Sessions whose access tokens are good no more. Each is forgotten when the last of its tokens has expired.

    Whoever learns of them from elsewhere begins with `is_complete=False` and sets it once it knows all that there are:
    until then no token can be accepted. For the first `patience` seconds calls wait for that, so that who calls a
    process that has just started is not turned away.
    """

    def __init__(self, *, is_complete: bool = True, patience: float = 0.0) -> None:
        self._complete = asyncio.Event()
        self.is_complete = is_complete
        self._patient_until = time.monotonic() + patience
        self._until: dict[UUID, float] = {}
        self._next: list[tuple[float, UUID]] = []
        self._listeners: dict[object, Callable[[UUID], None]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether all that there are are known."""
        return self._complete.is_set()

    @is_complete.setter
    def is_complete(self, value: bool) -> None:
        if value:
            self._complete.set()
        else:
            self._complete.clear()

    async def until_complete(self) -> bool:
        """Whether they are complete, now or while there is patience."""
        patience = self._patient_until - time.monotonic()
        if not self.is_complete and patience > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._complete.wait()
        return self.is_complete

    def __contains__(self, session_id: UUID) -> bool:
        until = self._until.get(session_id)
        return until is not None and until > time.time()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, session_ids: Iterable[UUID], expires_at: float) -> None:
        """Sessions have ended; the last of their tokens expires at this Unix time. Every listener is told of each."""
        for session_id in session_ids:
            if self._until.get(session_id, 0.0) < expires_at:
                self._until[session_id] = expires_at
                heappush(self._next, (expires_at, session_id))
            for listener in tuple(self._listeners.values()):
                listener(session_id)
        self._forget_expired()

    def subscribe(self, listener: Callable[[UUID], None]) -> Callable[[], None]:
        """Have a function called, at once, with every session that is added; what this answers takes it out again."""
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def _forget_expired(self) -> None:
        now = time.time()
        while self._next and self._next[0][0] <= now:
            until, session_id = heappop(self._next)
            if self._until.get(session_id) == until:  # and not a later one, which stands further back
                del self._until[session_id]


class RevocationFollower:
    """Keeps RevokedSessions up to date from auth's WatchRevocations, in all that goes wrong with the connection.

    They are complete when it has caught up for the first time, and stay so: while auth is away afterwards, tokens at
    hand stay good until they expire, because otherwise every restart of auth would stop all services. What was revoked
    in the meantime takes effect within a second of auth's return.
    """

    def __init__(self, auth: auth_grpc.AuthServiceStub, revoked: RevokedSessions) -> None:
        self._auth = auth
        self._revoked = revoked
        self._cursor = 0
        self._pause = FIRST_RETRY
        self._away = Outage(
            "auth does not tell which sessions are revoked", "auth tells again which sessions are revoked"
        )

    async def follow_for_ever(self) -> None:
        """Follow from the cursor, again and again."""
        while True:
            try:
                await self._follow()
                self._away.goes_on(code="OK")
            except grpc.aio.AioRpcError as error:
                if reason_in(error.trailing_metadata()) == CURSOR_INVALID:
                    self._cursor = 0  # Auth has another database than it had.
                self._away.goes_on(code=error.code().name)
            except TimeoutError:
                self._away.goes_on(code="silent")
            except Exception as error:  # noqa: BLE001  # it must go on: nobody else hears of revoked sessions
                log.error("revocations not understood", fault=describe_fault(error))  # noqa: TRY400  # as all faults
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, LAST_RETRY)

    async def _follow(self) -> None:
        """Follow until the stream ends or falls silent."""
        request = auth_pb2.WatchRevocationsRequest(after_sequence=self._cursor)
        call = self._auth.WatchRevocations(request)
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    response = await call.read()
                if not isinstance(response, auth_pb2.WatchRevocationsResponse):
                    return  # the end of the stream
                self._take(response)
        finally:
            call.cancel()

    def _take(self, response: auth_pb2.WatchRevocationsResponse) -> None:
        for revocation in response.revocations:
            sessions = [UUID(session_id) for session_id in revocation.session_ids]
            self._revoked.add(sessions, revocation.expire_time.ToNanoseconds() / 1e9)
            self._cursor = revocation.sequence
        match response.WhichOneof("notice"):
            case "caught_up":
                self._cursor = response.caught_up.sequence
                self._revoked.is_complete = True
                self._pause = FIRST_RETRY
                self._away.is_over()
            case "gap":  # What is no longer kept concerns no token that is still good.
                self._cursor = response.gap.last_sequence


@asynccontextmanager
async def following_revocations(auth: auth_grpc.AuthServiceStub, revoked: RevokedSessions) -> AsyncIterator[None]:
    """Keep `revoked` up to date for the time of the block."""
    async with in_background(RevocationFollower(auth, revoked).follow_for_ever(), "follow-revocations"):
        yield
