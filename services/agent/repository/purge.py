"""Removing executions and their events for good, some at a time."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.models.executions import EventTable, ExecutionTable


class PurgeRows:
    """What is left of executions, over the connection of one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def lock_of(self, agent_ids: Sequence[UUID], limit: int) -> Sequence[UUID]:
        """Some executions of agents, locked until the transaction ends."""
        statement = (
            select(ExecutionTable.id)
            .where(ExecutionTable.agent_id.in_(agent_ids))
            .order_by(ExecutionTable.id)
            .limit(limit)
        )
        return (await self._tx.execute(statement.with_for_update())).scalars().all()

    async def lock_ended(self, before: datetime, limit: int) -> Sequence[UUID]:
        """Some executions that ended before a moment and have events, locked, without those that others hold."""
        statement = (
            select(ExecutionTable.id)
            .where(ExecutionTable.end_time < before, ExecutionTable.has_events)
            .order_by(ExecutionTable.end_time)
            .limit(limit)
        )
        return (await self._tx.execute(statement.with_for_update(skip_locked=True))).scalars().all()

    async def delete_events(self, execution_ids: Sequence[UUID], limit: int) -> int:
        """Remove some events of executions; how many."""
        key = tuple_(EventTable.execution_id, EventTable.sequence)
        some = select(EventTable.execution_id, EventTable.sequence).where(EventTable.execution_id.in_(execution_ids))
        return (await self._tx.execute(delete(EventTable).where(key.in_(some.limit(limit))))).rowcount

    async def mark_without_events(self, execution_ids: Sequence[UUID]) -> None:
        """No event of these executions is kept."""
        statement = update(ExecutionTable).where(ExecutionTable.id.in_(execution_ids))
        await self._tx.execute(statement.values(has_events=False))

    async def delete(self, execution_ids: Sequence[UUID]) -> None:
        """Remove executions for good, with their files."""
        await self._tx.execute(delete(ExecutionTable).where(ExecutionTable.id.in_(execution_ids)))
