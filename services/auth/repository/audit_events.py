"""The audit log."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import ColumnElement, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.audit import AuditEvent, AuditEventTable, AuditType
from services.kit.filters import Filter, choice, moment, text, uuid
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest
from services.kit.prepared import Prepared

FILTER = Filter(
    {
        "type": choice(AuditEventTable.type, AuditType),
        "actor_id": uuid(AuditEventTable.actor_id),
        "subject_id": uuid(AuditEventTable.subject_id),
        "session_id": uuid(AuditEventTable.session_id),
        "address": text(AuditEventTable.address),
        "create_time": moment(AuditEventTable.create_time),
    }
)
"""What the list of audit events can be filtered by."""

_EVENT = tuple(getattr(AuditEventTable, name) for name in AuditEvent._fields)
_LIST = NewestFirst(AuditEvent._make, _EVENT)
_ADD_NEW = Prepared(insert(AuditEventTable).values({name: bindparam(name) for name in AuditEvent._fields}))


class AuditEvents:
    """The audit log, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add_new(self, event: AuditEvent) -> None:
        """Store an event whose id nobody knows yet."""
        await _ADD_NEW.run(self._tx, event._asdict() | {"details": Jsonb(event.details)})

    async def add(self, events: Sequence[AuditEvent]) -> set[UUID]:
        """Store events; those whose ids are known already are passed over. The ids of the others."""
        statement = insert(AuditEventTable).on_conflict_do_nothing(index_elements=["id"])
        stored = await self._tx.scalars(statement.returning(AuditEventTable.id), [event._asdict() for event in events])
        return set(stored)

    async def list_newest_first(self, page: PageRequest, conditions: Sequence[ColumnElement[bool]]) -> Page[AuditEvent]:
        """A page of the events that meet conditions, newest first, and how many there are in all, at one moment."""
        return await _LIST.page(self._tx, page, *conditions)

    async def delete_before(self, before: datetime, limit: int) -> int:
        """Remove some of the events that are older, at most so many; how many."""
        oldest = select(AuditEventTable.id).where(AuditEventTable.create_time < before).limit(limit)
        return (await self._tx.execute(delete(AuditEventTable).where(AuditEventTable.id.in_(oldest)))).rowcount
