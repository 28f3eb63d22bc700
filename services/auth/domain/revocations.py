"""Ending sessions before their tokens expire, so that every service hears of it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.errors import CursorInvalid
from services.auth.models.sessions import Revocation
from services.auth.repository.revocations import Revocations
from services.auth.repository.sessions import Sessions
from services.kit.database import Database
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault
from services.kit.feed import CaughtUp, CursorBeyondHead, Feed, Gap
from services.kit.revocations import RevokedSessions

log = structlog.get_logger()

TOPIC = UUID(int=0)
"""The one sequence of revocations, as the feed calls it."""

# Clocks of machines differ, and a token may be signed a moment after its session was read.
SLACK = timedelta(minutes=1)
SESSIONS_AT_A_TIME = 1_000
"""Sessions that one revocation names at the most. Those of a user are few, unless somebody makes them many."""
SIGN_OF_LIFE_SECONDS = 2.0
RETRY_SECONDS = 0.5


class Revoker:
    """Ends sessions in the caller's transaction; whoever commits it announces what it gave."""

    def __init__(
        self,
        publish: Callable[[Sequence[Revocation]], None],
        *,
        token_life: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._publish = publish
        self._token_life = token_life
        self._clock = clock

    async def end_sessions(
        self, tx: AsyncConnection, user_id: UUID, *, only: UUID | None = None, but: UUID | None = None
    ) -> Revocation | None:
        """End a user's sessions: all, `only` one, or all `but` one. None when none was left to end."""
        session_ids = await Sessions(tx).end(user_id, self._clock(), only=only, but=but)
        return await self.revoke(tx, session_ids, user_id) if session_ids else None

    async def revoke(self, tx: AsyncConnection, session_ids: Sequence[UUID], subject_id: UUID) -> Revocation:
        """Say that tokens of these sessions, at least one, are worth nothing any more. Returns the last revocation.

        A large number of sessions is several in succession: what was said before the last one is read by those who
        follow when they hear of that.
        """
        now = self._clock()
        batches = [
            session_ids[start : start + SESSIONS_AT_A_TIME] for start in range(0, len(session_ids), SESSIONS_AT_A_TIME)
        ]
        return (await Revocations(tx).append(batches, subject_id, now, now + self._token_life + SLACK))[-1]

    def announce(self, revocation: Revocation | None) -> None:
        """Tell the followers at once, after the commit. Without it they find out within a second."""
        if revocation is not None:
            self._publish([revocation])


class RevocationSource:
    """The sequence as a feed reads it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, topic: UUID, after: int, limit: int) -> Sequence[Revocation]:  # noqa: ARG002  # there is one
        """See feed.Source."""
        async with self._db.read() as tx:
            return await Revocations(tx).after(after, limit)

    async def heads(self, topics: Sequence[UUID]) -> Mapping[UUID, int]:
        """See feed.Source."""
        async with self._db.read() as tx:
            head = await Revocations(tx).last_sequence()
        return dict.fromkeys(topics, head)


class RevocationWatch:
    """The way to follow the sequence."""

    def __init__(self, db: Database, feed: Feed[Revocation]) -> None:
        self._db = db
        self._feed = feed

    async def watch(self, after: int) -> AsyncGenerator[Sequence[Revocation] | CaughtUp | Gap]:
        """What came after the cursor, CaughtUp, and then what comes; for ever. Raises CursorInvalid.

        While nothing comes CaughtUp is repeated, unless the database is away: nobody can tell then that nothing came.
        """
        try:
            follower = await self._feed.follow(TOPIC, after)
        except CursorBeyondHead as error:
            raise CursorInvalid from error
        pull: asyncio.Task[Sequence[Revocation] | CaughtUp | Gap] | None = None
        try:
            while True:
                pull = pull or asyncio.ensure_future(anext(follower))
                # Not cancelled when nothing comes: it may be reading.
                if (await asyncio.wait((pull,), timeout=SIGN_OF_LIFE_SECONDS))[0]:
                    item = pull.result()
                    pull = None
                    yield item
                elif follower.is_level and self._db.is_ready:
                    yield CaughtUp(follower.position)
        finally:
            if pull is not None:
                pull.cancel()
            follower.close()

    async def follow_into(self, revoked: RevokedSessions) -> None:
        """Keep up to date what this process itself refuses. It is complete once it is level the first time."""
        after = 0
        while True:
            await self._db.wait_ready()
            try:
                with await self._feed.follow(TOPIC, after) as follower:
                    async for item in follower:
                        after = follower.position
                        if isinstance(item, CaughtUp):
                            revoked.is_complete = True
                        elif not isinstance(item, Gap):
                            for revocation in item:
                                revoked.add(revocation.session_ids, revocation.expire_time.timestamp())
            except CursorBeyondHead:
                after = 0  # The database was set back to an earlier state.
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001  # what is not followed is not refused
                log.warning("revocations cannot be followed, trying again", fault=describe_fault(error))
                await asyncio.sleep(RETRY_SECONDS)
