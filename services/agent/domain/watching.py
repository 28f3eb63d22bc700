"""Following an execution: from a cursor to its end, wherever it runs."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID

import structlog

from services.agent.errors import CursorInvalid, ExecutionNotFound
from services.agent.models.events import Event
from services.agent.models.executions import Execution
from services.agent.repository.events import EventRows
from services.agent.repository.executions import ExecutionRows
from services.kit.database import Database
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault
from services.kit.feed import CaughtUp, CursorBeyondHead, Feed, Gap

log = structlog.get_logger()

RENEWALS = 3
"""How often it is said of an execution that it is watched, in the time after which one that is not is cancelled."""

Notice = Sequence[Event] | CaughtUp | Gap


class ExecutionEvents:
    """The events of executions as a feed's source."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, topic: UUID, after: int, limit: int) -> Sequence[Event]:
        """See feed.Source."""
        async with self._db.read() as tx:
            return await EventRows(tx).read(topic, after, limit)

    async def heads(self, topics: Sequence[UUID]) -> Mapping[UUID, int]:
        """See feed.Source."""
        async with self._db.read() as tx:
            return await EventRows(tx).heads(topics)


class Watching:
    """Who follows executions in this process. It says of those that want to be watched that they are."""

    def __init__(self, db: Database, events: Feed[Event], *, unwatched_for: timedelta) -> None:
        self._db = db
        self._events = events
        self._unwatched_for = unwatched_for
        self._watched: Counter[UUID] = Counter()

    async def watch_execution(self, user_id: UUID, execution_id: UUID, after: int) -> AsyncIterator[Notice]:
        """What an execution of the user's does after a position, up to its end.

        Raises ExecutionNotFound, CursorInvalid.
        """
        async with self._db.read() as tx:
            execution = await ExecutionRows(tx).get(user_id, execution_id)
        if execution is None:
            raise ExecutionNotFound
        try:
            follower = await self._events.follow(execution_id, after)
        except CursorBeyondHead as error:
            raise CursorInvalid from error
        has_ended, has_caught_up = execution.has_ended, False
        with follower, self._being_watched(execution):
            if execution.cancel_unwatched:
                await self._renew([execution_id])
            async for item in follower:
                yield item
                if isinstance(item, CaughtUp):
                    has_caught_up = True
                elif not isinstance(item, Gap):
                    has_ended = has_ended or item[-1].is_last
                if has_ended and has_caught_up:
                    return

    async def renew_for_ever(self) -> None:
        """Say of those that are watched here that they are, until cancelled."""
        while True:
            await asyncio.sleep(self._unwatched_for.total_seconds() / RENEWALS)
            try:
                await self._renew(list(self._watched))
            except Unavailable:
                pass  # Nobody can end them either.
            except Exception as error:  # noqa: BLE001  # without the next one, they are ended
                log.error("watches not renewed", fault=describe_fault(error))  # noqa: TRY400  # as all faults

    async def _renew(self, execution_ids: Sequence[UUID]) -> None:
        if execution_ids:
            async with self._db.read() as tx:
                # Who leaves just before the next time has the whole time to come back, too.
                await ExecutionRows(tx).renew_watches(execution_ids, self._unwatched_for * 1.5)

    @contextmanager
    def _being_watched(self, execution: Execution) -> Iterator[None]:
        if not execution.cancel_unwatched:
            yield
            return
        self._watched[execution.id] += 1
        try:
            yield
        finally:
            self._watched[execution.id] -= 1
            if not self._watched[execution.id]:
                del self._watched[execution.id]
