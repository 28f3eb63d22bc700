"""Which process runs which execution: taken under a lease, given up, lost."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Integer,
    Interval,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    column,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.models.executions import TAKEN, End, Execution, ExecutionTable, State
from services.agent.repository.executions import COLUMNS, IS_OPEN, ExecutionRows, in_state, told

CLAIMS = "agent:claims"
"""The lock under which executions are taken, so that what is counted before holds after."""

# Those that wait, the users in turn: each user's first, then each one's second, up to as many as one may have running.
# Of a conversation the first one waits for a place and the others for that one; none waits for a place while one runs.
_CHOOSE = text(
    """
    SELECT id FROM agent.executions
    WHERE state = 'QUEUED' AND id IN (
        SELECT id FROM (
            SELECT q.id, coalesce(r.running, 0) + row_number() OVER (PARTITION BY q.user_id ORDER BY q.id) AS place
            FROM agent.executions q
            LEFT JOIN (
                SELECT user_id, count(*) AS running FROM agent.executions
                WHERE state IN ('RUNNING', 'CANCELLING') GROUP BY user_id
            ) r USING (user_id)
            WHERE q.state = 'QUEUED' AND (q.conversation_id IS NULL OR NOT EXISTS (
                SELECT FROM agent.executions o
                WHERE o.user_id = q.user_id AND o.conversation_id = q.conversation_id
                AND (o.state IN ('RUNNING', 'CANCELLING') OR o.state = 'QUEUED' AND o.id < q.id)
            ))
        ) waiting
        WHERE place <= :per_user
        ORDER BY place, id
        LIMIT :limit
    )
    FOR UPDATE SKIP LOCKED
    """
)
_ANY_WAITS = select(select(ExecutionTable.id).where(in_state(State.QUEUED)).exists())
_held = (
    select(ExecutionTable.id)
    .where(
        tuple_(ExecutionTable.id, ExecutionTable.attempt).in_(bindparam("held", expanding=True)),
        in_state(*TAKEN),
    )
    .order_by(ExecutionTable.id)
    .with_for_update()
    .cte("held")
)
_RENEW = (
    update(ExecutionTable)
    .where(ExecutionTable.id == _held.c.id)
    .values(lease_expire_time=func.now() + bindparam("lease", type_=Interval))
    .returning(ExecutionTable.id, ExecutionTable.state)
)
_ORPHANS = (
    select(ExecutionTable.id, ExecutionTable.attempt)
    .where(in_state(*TAKEN), ExecutionTable.lease_expire_time < func.now())
    .order_by(ExecutionTable.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
IS_UNWATCHED = ExecutionTable.cancel_unwatched & (ExecutionTable.watch_expire_time < func.now())
"""That an execution wanted to be watched, and has not been for too long."""

_UNWATCHED = (
    select(ExecutionTable.id)
    .where(IS_UNWATCHED, IS_OPEN)
    .where(ExecutionTable.state != State.CANCELLING)
    .order_by(ExecutionTable.id)
    .limit(bindparam("limit"))
)


_given = (
    func.json_to_recordset(cast(bindparam("ends", type_=Text), JSON))
    .table_valued(
        column("id", Uuid),
        column("attempt", Integer),
        *(column(name, Text) for name in ("state", "reason", "message", "output")),
        *(column(name, BigInteger) for name in ("input_tokens", "output_tokens")),
    )
    .render_derived("given", with_types=True)
)
_to_end = (
    select(ExecutionTable.id)
    .join(_given, (_given.c.id == ExecutionTable.id) & (_given.c.attempt == ExecutionTable.attempt))
    .where(IS_OPEN)
    .order_by(ExecutionTable.id)
    .with_for_update(of=ExecutionTable)
    .cte("to_end")
)
_cancelling = ExecutionTable.state == State.CANCELLING
_ended = (
    update(ExecutionTable)
    .where(ExecutionTable.id == _to_end.c.id, ExecutionTable.id == _given.c.id)
    .values(
        state=case((_cancelling, State.CANCELLED), else_=_given.c.state),
        failure_reason=case((_cancelling, ExecutionTable.failure_reason), else_=_given.c.reason),
        failure_message=case((_cancelling, ExecutionTable.failure_message), else_=_given.c.message),
        output=_given.c.output,
        input_tokens=func.coalesce(_given.c.input_tokens, ExecutionTable.input_tokens),
        output_tokens=func.coalesce(_given.c.output_tokens, ExecutionTable.output_tokens),
        lease_expire_time=None,
        update_time=bindparam("now", type_=ExecutionTable.update_time.type),
        end_time=bindparam("now", type_=ExecutionTable.end_time.type),
        last_sequence=ExecutionTable.last_sequence + 1,
    )
    .returning(*COLUMNS)
    .cte("ended")
)
_END = select(*_ended.c).add_cte(told(_ended).cte("told"))


class QueueRows:
    """The executions as something to be run, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx
        self._executions = ExecutionRows(tx)

    async def any_waits(self) -> bool:
        """Whether an execution waits, for whatever."""
        return (await self._tx.execute(_ANY_WAITS)).scalar_one()

    async def take(self, now: datetime, *, limit: int, per_user: int, lease: timedelta) -> Sequence[Execution]:
        """Take executions that wait and may run, under the lock CLAIMS: each begins a new attempt."""
        chosen = (await self._tx.execute(_CHOOSE, {"limit": limit, "per_user": per_user})).scalars().all()
        if not chosen:
            return []
        return await self._executions.change(
            now,
            ExecutionTable.id.in_(chosen),
            state=State.RUNNING,
            attempt=ExecutionTable.attempt + 1,
            appended=0,
            has_used_tools=False,
            input_tokens=0,
            output_tokens=0,
            failure_reason=None,
            failure_message=None,
            lease_expire_time=func.now() + lease,
            start_time=func.coalesce(ExecutionTable.start_time, now),
        )

    async def renew(self, held: Sequence[tuple[UUID, int]], lease: timedelta) -> Mapping[UUID, State]:
        """Say that these attempts live; the state of each that still has its execution."""
        rows = await self._tx.execute(_RENEW, {"held": list(held), "lease": lease})
        return {row[0]: State(row[1]) for row in rows}

    async def lock_orphans(self, limit: int) -> Sequence[tuple[UUID, int]]:
        """Some executions whose process has not said for too long that it lives, with the attempt that it was.

        They are locked, and without those that others hold.
        """
        return [(row[0], row[1]) for row in await self._tx.execute(_ORPHANS, {"limit": limit})]

    async def unwatched(self, limit: int) -> Sequence[UUID]:
        """Some executions of which IS_UNWATCHED is true."""
        return (await self._tx.execute(_UNWATCHED, {"limit": limit})).scalars().all()

    async def put_back(
        self, now: datetime, execution_id: UUID, attempt: int, *, lost: bool, max_losses: int
    ) -> Sequence[Execution]:
        """Let an execution that an attempt has wait again, if it has used no tools.

        `lost` is counted, and nothing is done beyond the limit.
        """
        return await self._executions.change(
            now,
            ExecutionTable.id == execution_id,
            ExecutionTable.attempt == attempt,
            ExecutionTable.state == State.RUNNING,
            ~ExecutionTable.has_used_tools,
            ExecutionTable.losses + int(lost) <= max_losses,
            state=State.QUEUED,
            losses=ExecutionTable.losses + int(lost),
            lease_expire_time=None,
        )

    async def end(self, now: datetime, ends: Sequence[End]) -> Sequence[Execution]:
        """End executions that are at these attempts and have not ended; those that this has ended.

        One that is to be cancelled is CANCELLED, for the reason that was given with that.
        """
        given = json.dumps([{**end._asdict(), "id": str(end.id)} for end in ends])
        return [Execution._make(row) for row in await self._tx.execute(_END, {"ends": given, "now": now})]
