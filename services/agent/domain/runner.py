"""Runs the executions of this process: takes those that wait, keeps them alive, and sees each to its end.

An execution is taken under a lease that is renewed while this process lives (`services.agent.domain.keeper`). Each take
is a new attempt, and its number the fencing token: whoever has an older one stores nothing more.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from services.agent.domain.journal import Journal, LeaseLost
from services.agent.domain.rounds import Rounds
from services.agent.domain.scribe import Scribe
from services.agent.domain.states import QUEUE_TOPIC, Ending, States, cancel_topic
from services.agent.errors import RunFailure, RunFault, TimeoutReached
from services.agent.models.executions import Execution, State
from services.agent.repository.queue import CLAIMS, QueueRows
from services.kit.bus import Bus
from services.kit.database import Database
from services.kit.faults import describe_fault
from services.kit.follower import until_available
from services.kit.ids import uuid7

log = structlog.get_logger()

LOOK_SECONDS = 1.0
TAKEN_AT_A_TIME = 50
PUT_BACK_SECONDS = 1.5


@dataclass(frozen=True)
class RunLimits:
    """How much runs at a time, for how long, and how soon a process counts as dead."""

    at_a_time: int
    per_user: int
    longest: timedelta
    lease: timedelta
    heartbeat: timedelta


class ActiveRun:
    """An attempt that this process makes."""

    def __init__(self, execution: Execution, journal: Journal) -> None:
        self.execution = execution
        self.journal = journal
        self._work: asyncio.Task[Ending] | None = None
        self._is_to_end = False

    def begin(self, work: asyncio.Task[Ending]) -> None:
        """The work has begun."""
        self._work = work
        if self._is_to_end:
            work.cancel()

    def on_cancel_hint(self, position: int | None) -> None:
        """The execution was told to end; None: perhaps, which the next heartbeat finds out."""
        if position is not None:
            self.break_off()

    def break_off(self) -> None:
        """End the work: the execution is to be cancelled."""
        if not self._is_to_end:
            self._is_to_end = True
            if self._work is not None:
                self._work.cancel()

    def lose(self) -> None:
        """End the work: another process has the execution, or it has ended."""
        self.journal.lose()
        self.break_off()


class Runner:
    """The executions that run in this process."""

    def __init__(
        self,
        db: Database,
        bus: Bus,
        scribe: Scribe,
        rounds: Rounds,
        states: States,
        limits: RunLimits,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._bus = bus
        self._scribe = scribe
        self._rounds = rounds
        self._states = states
        self._limits = limits
        self._clock = clock
        self._runs: dict[UUID, ActiveRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    @property
    def runs(self) -> Mapping[UUID, ActiveRun]:
        """The attempts that this process makes, by their executions."""
        return self._runs

    async def take_for_ever(self) -> None:
        """Take executions as they come and there is room, and run them."""
        unsubscribe = self._bus.subscribe(QUEUE_TOPIC, lambda _: self._wake.set())
        try:
            while True:
                self._wake.clear()
                try:
                    if await until_available(self._take_some):
                        continue  # There may be more.
                except Exception as error:  # noqa: BLE001  # who gives up here runs nothing any more
                    log.error("executions cannot be taken, trying again", fault=describe_fault(error))  # noqa: TRY400  # as all faults
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._wake.wait()
        finally:
            unsubscribe()

    async def close(self) -> None:
        """Break off what runs, and let it wait for another process."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _take_some(self) -> bool:
        room = min(self._limits.at_a_time - len(self._runs), TAKEN_AT_A_TIME)
        if room <= 0:
            return False
        async with self._db.read() as tx:
            if not await QueueRows(tx).any_waits():
                return False
        async with self._db.transaction(lock=CLAIMS) as tx:
            taken = await QueueRows(tx).take(
                self._clock(), limit=room, per_user=self._limits.per_user, lease=self._limits.lease
            )
        self._states.tell(taken)
        for execution in taken:
            self._begin(execution)
        return bool(taken)

    def _begin(self, execution: Execution) -> None:
        if before := self._runs.get(execution.id):
            before.lose()  # Another process has put it back, and this one has taken it again before it knew.
        run = self._runs[execution.id] = ActiveRun(execution, self._scribe.open(execution))
        task = asyncio.create_task(self._see_to_its_end(run), name=f"execution-{execution.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_to_its_end(self, run: ActiveRun) -> None:
        execution, journal = run.execution, run.journal
        unsubscribe = self._bus.subscribe(cancel_topic(execution.id), run.on_cancel_hint)
        work = asyncio.create_task(self._work(run), name=f"work-{execution.id}")
        run.begin(work)
        try:
            await asyncio.wait((work,))
            # Only `break_off` cancels it. What it is cancelled for is in the row, and decides there.
            ending = Ending(State.CANCELLED) if work.cancelled() else work.result()
            self._say_ended(await self._scribe.end(journal, ending))
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait((work,))
            await self._put_back(execution, journal)
            raise
        finally:
            unsubscribe()
            if self._runs[execution.id] is run:  # and not the attempt after it
                del self._runs[execution.id]
            self._wake.set()

    async def _work(self, run: ActiveRun) -> Ending:
        """Run it; how it ends. Raises nothing but for cancellation."""
        execution = run.execution
        began = execution.start_time or self._clock()
        longest = self._limits.longest.total_seconds()
        own = longest if execution.timeout_seconds is None else execution.timeout_seconds
        seconds = min(own, longest) - (self._clock() - began).total_seconds()
        cap = asyncio.timeout(max(seconds, 0))
        try:
            async with cap:
                await self._rounds.run(execution, run.journal)
        except RunFailure as failure:
            return Ending.by(failure)
        except LeaseLost:
            return Ending(State.FAILED)  # Which nobody will hear of.
        except TimeoutError as error:
            if cap.expired():
                return Ending.by(TimeoutReached())
            return self._fault(execution, error)
        except Exception as error:  # noqa: BLE001  # the execution must end, whatever it was
            return self._fault(execution, error)
        return Ending(State.SUCCEEDED)

    def _fault(self, execution: Execution, error: Exception) -> Ending:
        incident = uuid7()
        log.error(
            "execution met a fault", execution_id=str(execution.id), incident=str(incident), fault=describe_fault(error)
        )
        return Ending.by(RunFault(f"A fault of the server; incident {incident}."))

    def _say_ended(self, ended: Execution | None) -> None:
        if ended is not None:
            log.info(
                "execution ended",
                execution_id=str(ended.id),
                user_id=str(ended.user_id),
                state=ended.state,
                reason=ended.failure_reason,
                attempt=ended.attempt,
                output_tokens=ended.output_tokens,
            )

    async def _put_back(self, execution: Execution, journal: Journal) -> None:
        """Let another process begin anew, unless tools may have had effects."""
        try:
            async with asyncio.timeout(PUT_BACK_SECONDS):
                await journal.settle()
                async with self._db.transaction() as tx:
                    changed = await self._states.put_back(tx, execution.id, execution.attempt, lost=False)
                self._states.tell(changed)
        except (LeaseLost, TimeoutError):
            pass
        except Exception as error:  # noqa: BLE001  # its lease ends, and another process sees to it
            log.warning("execution not put back", execution_id=str(execution.id), fault=describe_fault(error))
