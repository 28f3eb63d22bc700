"""Executions' ways from one state to another: stored, then told to who follows them and to who runs them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.errors import Cancelled, OverBudget, RunFailure, RunInterrupted
from services.agent.models.events import Event, StateChanged, UsageChanged
from services.agent.models.executions import End, Execution, Failure, State
from services.agent.repository.executions import ExecutionRows, Which, among
from services.agent.repository.queue import QueueRows
from services.kit.bus import Bus
from services.kit.feed import Feed

MAX_LOSSES = 3
QUEUE_TOPIC = "agent-queue"
"""Hinted when an execution may be taken."""


def cancel_topic(execution_id: UUID) -> str:
    """Hinted when an execution that runs is to be cancelled."""
    return f"agent-cancel:{execution_id}"


class Ending(NamedTuple):
    """How an execution ends."""

    state: State
    failure: Failure | None = None

    @classmethod
    def by(cls, failure: RunFailure) -> "Ending":
        """The end of an execution that a failure stops."""
        if isinstance(failure, Cancelled):
            state = State.CANCELLED
        elif isinstance(failure, OverBudget):
            state = State.BUDGET_EXCEEDED
        else:
            state = State.FAILED
        return cls(state, failure_of(failure))

    def of(self, execution_id: UUID, attempt: int, output: str, usage: UsageChanged | None = None) -> End:
        """The end of this execution by this attempt, with what it has answered."""
        reason, message = self.failure or (None, None)
        used, said = (None, None) if usage is None else (usage.input_tokens, usage.output_tokens)
        return End(execution_id, attempt, self.state, reason, message, output, used, said)


def failure_of(failure: RunFailure) -> Failure:
    """A failure as it is kept."""
    return Failure(failure.reason, str(failure))


class States:
    """Changes states within transactions, and tells of it after them."""

    def __init__(self, events: Feed[Event], bus: Bus, *, clock: Callable[[], datetime]) -> None:
        self._events = events
        self._bus = bus
        self._clock = clock

    async def cancel(
        self, tx: AsyncConnection, which: Which, *, because: RunFailure | None = None
    ) -> Sequence[Execution]:
        """Cancel those of the executions that have not ended; those that this has changed.

        What waits is cancelled then; what runs is to be.
        """
        changed: list[Execution] = []
        rows = ExecutionRows(tx)
        failure = failure_of(because) if because else None
        for execution in await rows.lock_open(which):
            if execution.state == State.QUEUED:
                output = await rows.output_so_far(execution.id, execution.attempt) if execution.attempt else ""
                changed += await self.end(
                    tx, [Ending(State.CANCELLED, failure).of(execution.id, execution.attempt, output)]
                )
            elif execution.state == State.RUNNING:
                changed += await rows.change(
                    self._clock(),
                    *among([execution.id]),
                    state=State.CANCELLING,
                    failure_reason=failure and failure.reason,
                    failure_message=failure and failure.message,
                )
        return changed

    async def end(self, tx: AsyncConnection, ends: Sequence[End]) -> Sequence[Execution]:
        """End executions that have not ended and are at these attempts; those that this has ended.

        One that is to be cancelled is CANCELLED, however it would have ended.
        """
        return await QueueRows(tx).end(self._clock(), ends)

    async def put_back(
        self, tx: AsyncConnection, execution_id: UUID, attempt: int, *, lost: bool
    ) -> Sequence[Execution]:
        """Let an execution that an attempt has wait for another; `lost`: this one's process is.

        It ends as RUN_INTERRUPTED if it has used tools, which may have had effects, or if too many processes were lost
        with it: it may be what they die of.
        """
        put_back = await QueueRows(tx).put_back(self._clock(), execution_id, attempt, lost=lost, max_losses=MAX_LOSSES)
        if put_back:
            return put_back
        output = await ExecutionRows(tx).output_so_far(execution_id, attempt)
        return await self.end(tx, [Ending.by(RunInterrupted()).of(execution_id, attempt, output)])

    def tell(self, changed: Sequence[Execution]) -> None:
        """These executions were changed, by a transaction that has committed."""
        for execution in changed:
            state = State(execution.state)
            body = StateChanged(state, execution.failure)
            event = Event(execution.id, execution.last_sequence, execution.attempt, execution.update_time, body)
            self._events.publish(execution.id, [event])
            if state == State.CANCELLING:
                self._bus.hint(cancel_topic(execution.id), execution.last_sequence)
        # What has ended makes room for what waits.
        if any(execution.state == State.QUEUED or execution.has_ended for execution in changed):
            self._bus.hint(QUEUE_TOPIC, 1)
