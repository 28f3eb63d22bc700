"""The audit log."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.audit import AuditEvent, AuditEventTable


class AuditEvents:
    """The audit log, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add(self, events: Sequence[AuditEvent]) -> None:
        """Store events; those whose ids are known already are passed over."""
        statement = insert(AuditEventTable).on_conflict_do_nothing(index_elements=["id"])
        await self._tx.execute(statement, [event._asdict() for event in events])

    async def delete_before(self, before: datetime) -> int:
        """Remove events that are older; how many."""
        return (await self._tx.execute(delete(AuditEventTable).where(AuditEventTable.create_time < before))).rowcount
