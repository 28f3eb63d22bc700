"""Processes, their leases, and the connections that they hold."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Boolean, bindparam, delete, func, literal_column, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chat.models import Connection, ConnectionTable, ProcessTable

_PRESENT = (
    select(ConnectionTable.room_id, ConnectionTable.user_id)
    .where(ConnectionTable.room_id.in_(bindparam("rooms", expanding=True)))
    .distinct()
)
_DELETE = delete(ConnectionTable).where(
    tuple_(ConnectionTable.id, ConnectionTable.room_id).in_(bindparam("keys", expanding=True))
)
_expired = (
    select(ProcessTable.id).where(ProcessTable.expire_time < func.now()).with_for_update(skip_locked=True)
).scalar_subquery()
_dead = delete(ProcessTable).where(ProcessTable.id.in_(_expired)).returning(ProcessTable.id).cte("dead")
_retired = delete(ProcessTable).where(ProcessTable.id == bindparam("id")).returning(ProcessTable.id).cte("retired")
# The connections are deleted with their process; these statements still see them.
_REAP = select(ConnectionTable.room_id).join(_dead, _dead.c.id == ConnectionTable.process_id).distinct()
_RETIRE = select(ConnectionTable.room_id).join(_retired, _retired.c.id == ConnectionTable.process_id).distinct()


class PresenceRows:
    """Who is connected, over the connection of one transaction or of one read. Leases run by PostgreSQL's clock."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def renew(self, process_id: UUID, lease: timedelta) -> bool:
        """Renew the process's lease; True when it had none, so that it holds no connections either."""
        expire_time = func.now() + lease
        statement = (
            insert(ProcessTable)
            .values(id=process_id, expire_time=expire_time)
            .on_conflict_do_update(index_elements=["id"], set_={"expire_time": expire_time})
            .returning(literal_column("xmax = 0", Boolean))
        )
        return bool((await self._tx.execute(statement)).scalar_one())

    async def reap(self) -> Sequence[UUID]:
        """Remove the processes whose lease has run out; the rooms that they held connections to."""
        return list((await self._tx.execute(_REAP)).scalars())

    async def retire(self, process_id: UUID) -> Sequence[UUID]:
        """Remove one process; the rooms that it held connections to."""
        return list((await self._tx.execute(_RETIRE, {"id": process_id})).scalars())

    async def insert(self, process_id: UUID, connections: Sequence[Connection]) -> None:
        """Add connections of a process. Those that are there stay."""
        rows = [{**connection._asdict(), "process_id": process_id} for connection in connections]
        await self._tx.execute(insert(ConnectionTable).on_conflict_do_nothing(), rows)

    async def delete(self, connections: Sequence[Connection]) -> None:
        """Remove connections."""
        await self._tx.execute(_DELETE, {"keys": [(c.id, c.room_id) for c in connections]})

    async def present(self, room_ids: Sequence[UUID]) -> Sequence[tuple[UUID, UUID]]:
        """Pairs of room and user, for who is connected to these rooms."""
        rows = await self._tx.execute(_PRESENT, {"rooms": list(room_ids)})
        return [(row[0], row[1]) for row in rows]
