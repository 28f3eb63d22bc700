"""What executions do, stored before anybody sees it: all that this process's executions tell within a moment, at once.

Each execution that runs here has a Journal, into which its run writes without waiting. One task for the whole process
gathers what was written for a few hundredths of a second and stores it with one statement, so that five hundred
executions cost one commit and not five hundred; those that end in the meantime end with a second one. Then followers
are told.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from time import monotonic
from uuid import UUID

import structlog

from services.agent.domain.journal import Journal
from services.agent.domain.states import Ending, States
from services.agent.models.events import Event
from services.agent.models.executions import Execution
from services.agent.repository.events import Batch, EventRows
from services.kit.database import Database
from services.kit.faults import describe_fault
from services.kit.feed import Feed
from services.kit.follower import until_available

log = structlog.get_logger()

GATHER_SECONDS = 0.03
"""How long a text waits for others. With the commit, followers have it within 50 ms on a machine that is not busy."""
MOST_GATHER_SECONDS = 0.15
GATHER_PER_ROUND = 0.5
"""How much longer it waits than the last round took, so that a busy process tells more at a time, and not later."""
TOLD_AT_A_TIME = 20
"""Then others have their turn: the event loop takes one new call in each of its rounds, so that these must be short."""
MAX_ENDED_CHARACTERS = 4 * 1024 * 1024


class _End:
    """An execution that is to end with how its attempt has ended."""

    def __init__(self, journal: Journal, ending: Ending) -> None:
        self.journal = journal
        self.ending = ending
        self.ended: asyncio.Future[Execution | None] = asyncio.get_running_loop().create_future()


class Scribe:
    """Stores what the journals of this process hold, and tells followers."""

    def __init__(self, db: Database, events: Feed[Event], states: States, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._events = events
        self._states = states
        self._clock = clock
        self._news: dict[UUID, Journal] = {}
        self._ends: list[_End] = []
        self._something = asyncio.Event()
        self.storing = asyncio.Lock()
        """Held while many executions are changed at once, of which there is one at a time."""

    def open(self, execution: Execution) -> Journal:
        """The journal of an attempt that has just begun."""
        return Journal(execution, self._clock, self._on_news)

    async def end(self, journal: Journal, ending: Ending) -> Execution | None:
        """End an execution once all that its attempt has written is stored; as it is then.

        None if the attempt has lost it, or it has ended already.
        """
        end = _End(journal, ending)
        self._ends.append(end)
        self._something.set()
        return await end.ended

    async def store_for_ever(self) -> None:
        """Store what is written, as it comes."""
        gather = GATHER_SECONDS
        while True:
            await self._something.wait()
            await asyncio.sleep(gather)
            self._something.clear()
            began = monotonic()
            taken, self._news = self._news, {}
            ends, self._ends = self._ends, []
            batches = [journal.take() for journal in taken.values() if not journal.lost]
            await self._store_somehow({batch.execution_id: (taken[batch.execution_id], batch) for batch in batches})
            await self._end_somehow(ends)
            await asyncio.sleep(0)  # Those who were told have their turn now, which belongs to the round.
            gather = min(max(GATHER_SECONDS, GATHER_PER_ROUND * (monotonic() - began)), MOST_GATHER_SECONDS)

    def _on_news(self, journal: Journal) -> None:
        self._news[journal.execution_id] = journal
        self._something.set()

    async def _store_somehow(self, todo: Mapping[UUID, tuple[Journal, Batch]]) -> None:
        """Store batches, however long the database is away. What alone cannot be stored ends its attempt."""
        if not todo:
            return
        try:
            await until_available(partial(self._store, todo))
        except Exception as error:  # noqa: BLE001  # one execution's events must not keep back those of all
            log.error("events cannot be stored", executions=len(todo), fault=describe_fault(error))  # noqa: TRY400  # as all faults
            if len(todo) > 1:
                for execution_id, pair in todo.items():
                    await self._store_somehow({execution_id: pair})
            else:
                for journal, _ in todo.values():
                    journal.lose()

    async def _end_somehow(self, ends: Sequence[_End]) -> None:
        """End executions, however long the database is away. What alone cannot be ended is left to its lease's end."""
        while ends:
            some = _fitting(ends)
            ends = ends[len(some) :]
            try:
                ended = await until_available(partial(self._end, some))
            except Exception as error:  # noqa: BLE001  # as above
                log.error("executions cannot be ended", executions=len(some), fault=describe_fault(error))  # noqa: TRY400  # as all faults
                if len(some) > 1:
                    for end in some:
                        await self._end_somehow([end])
                    continue
                ended = {}
            for end in some:
                if not end.ended.done():
                    end.ended.set_result(None if end.journal.lost else ended.get(end.journal.execution_id))

    async def _end(self, ends: Sequence[_End]) -> Mapping[UUID, Execution]:
        rows = [
            end.ending.of(end.journal.execution_id, end.journal.attempt, end.journal.output, end.journal.usage)
            for end in ends
            if not end.journal.lost
        ]
        async with self.storing, self._db.read() as tx:  # One statement, which commits itself.
            ended = await self._states.end(tx, rows)
        for number, execution in enumerate(ended, 1):
            self._states.tell([execution])
            if number % TOLD_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return {execution.id: execution for execution in ended}

    async def _store(self, todo: Mapping[UUID, tuple[Journal, Batch]]) -> None:
        bases = await self._append([batch for _, batch in todo.values()])
        for number, (execution_id, base) in enumerate(bases.items(), 1):
            self._publish(todo[execution_id][1], base)
            self._go_on(*todo[execution_id])
            if number % TOLD_AT_A_TIME == 0:
                await asyncio.sleep(0)
        if left := {execution_id: pair for execution_id, pair in todo.items() if execution_id not in bases}:
            # A statement that failed before may have been committed all the same.
            found = await self._read_appended(list(left))
            for execution_id, (journal, batch) in left.items():
                if found.get(execution_id) == (batch.attempt, batch.appended + len(batch.events)):
                    self._go_on(journal, batch)  # Followers find it by themselves.
                else:
                    journal.lose()

    async def _append(self, batches: Sequence[Batch]) -> Mapping[UUID, int]:
        async with self.storing, self._db.read() as tx:  # One statement, which commits itself.
            return await EventRows(tx).append(batches)

    async def _read_appended(self, execution_ids: Sequence[UUID]) -> Mapping[UUID, tuple[int, int]]:
        async with self._db.read() as tx:
            return await EventRows(tx).appended(execution_ids)

    def _publish(self, batch: Batch, base: int) -> None:
        self._events.publish(
            batch.execution_id,
            [
                Event(batch.execution_id, base + place, batch.attempt, moment, body)
                for place, (moment, body) in enumerate(batch.events, 1)
            ],
        )

    def _go_on(self, journal: Journal, batch: Batch) -> None:
        if journal.stored(batch):
            self._on_news(journal)


def _fitting(ends: Sequence[_End]) -> Sequence[_End]:
    """As many of the first as have not too much text for one statement, at least one."""
    characters = 0
    for index, end in enumerate(ends):
        characters += end.journal.size
        if characters > MAX_ENDED_CHARACTERS and index:
            return ends[:index]
    return ends
