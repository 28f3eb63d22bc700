"""The sequence of sessions that have ended."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.sessions import Revocation, RevocationHeadTable, RevocationTable

_REVOCATION = tuple(RevocationTable.__table__.columns[name] for name in Revocation._fields)


class Revocations:
    """The sequence, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def append(
        self, batches: Sequence[Sequence[UUID]], subject_id: UUID, create_time: datetime, expire_time: datetime
    ) -> Sequence[Revocation]:
        """Add one for each batch of sessions, at least one.

        Others that add wait until the transaction ends, so that sequences are given in commit order.
        """
        head = update(RevocationHeadTable).values(last_sequence=RevocationHeadTable.last_sequence + len(batches))
        last = (await self._tx.execute(head.returning(RevocationHeadTable.last_sequence))).scalar_one()
        first = last - len(batches) + 1
        added = [
            Revocation(sequence, list(batch), subject_id, create_time, expire_time)
            for sequence, batch in enumerate(batches, first)
        ]
        await self._tx.execute(insert(RevocationTable), [revocation._asdict() for revocation in added])
        return added

    async def after(self, sequence: int, limit: int) -> Sequence[Revocation]:
        """The first after a sequence, in order."""
        statement = (
            select(*_REVOCATION)
            .where(RevocationTable.sequence > sequence)
            .order_by(RevocationTable.sequence)
            .limit(limit)
        )
        return [Revocation(*row) for row in await self._tx.execute(statement)]

    async def last_sequence(self) -> int:
        """The last sequence that was given; 0 before the first."""
        return (await self._tx.execute(select(RevocationHeadTable.last_sequence))).scalar_one()

    async def delete_expired(self, before: datetime) -> int:
        """Remove those whose last token expired before a time; how many."""
        return (await self._tx.execute(delete(RevocationTable).where(RevocationTable.expire_time < before))).rowcount
