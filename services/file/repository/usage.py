"""How much of their quotas users use. Whoever changes it has locked the upload that it is about, if there is one."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, CTE, BigInteger, Select, Uuid, any_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.models import PartTable, UploadTable, Usage, UsageTable
from services.kit.prepared import Prepared

_MAX_BYTES = bindparam("max_bytes", type_=BigInteger)
_MAX_FILES = bindparam("max_files", type_=BigInteger)
_USERS = select(UploadTable.user_id).where(UploadTable.id == any_(bindparam("upload_ids", type_=ARRAY(Uuid))))
_LOCK = select(UsageTable.user_id).where(UsageTable.user_id.in_(_USERS)).order_by(UsageTable.user_id).with_for_update()
_FREED = (
    select(
        UploadTable.user_id,
        func.coalesce(func.sum(PartTable.size_bytes), 0).label("bytes"),
        func.count(UploadTable.id.distinct()).label("files"),
    )
    .outerjoin(PartTable, (PartTable.upload_id == UploadTable.id) & PartTable.dead_time.is_(None))
    .where(UploadTable.id == any_(bindparam("upload_ids", type_=ARRAY(Uuid))))
    .group_by(UploadTable.user_id)
    .cte("freed")
)
_FREE = (
    update(UsageTable)
    .where(UsageTable.user_id == _FREED.c.user_id)
    .values(bytes=UsageTable.bytes - _FREED.c.bytes, files=UsageTable.files - _FREED.c.files)
)
_USED: tuple[Any, ...] = (UsageTable.bytes, UsageTable.files)
_GET = Prepared(select(*_USED).where(UsageTable.user_id == bindparam("user_id")))


def room_for(more: Select[tuple[UUID, int, int]]) -> CTE:
    """Count what a statement adds: `user_id`, `bytes`, `files`. Over a quota nothing is, and no row comes.

    The limits are the values `max_bytes` and `max_files`.
    """
    added = more.subquery("added")
    user_id, more_bytes, more_files = added.c.user_id, added.c.bytes, added.c.files
    statement = insert(UsageTable).from_select(
        ["user_id", "bytes", "files"],
        select(user_id, more_bytes, more_files).where(more_bytes <= _MAX_BYTES, more_files <= _MAX_FILES),
    )
    sums = {
        UsageTable.bytes: UsageTable.bytes + statement.excluded.bytes,
        UsageTable.files: UsageTable.files + statement.excluded.files,
    }
    return (
        statement.on_conflict_do_update(
            index_elements=[UsageTable.user_id],
            set_=sums,
            where=(sums[UsageTable.bytes] <= _MAX_BYTES) & (sums[UsageTable.files] <= _MAX_FILES),
        )
        .returning(UsageTable.user_id)
        .cte("room")
    )


class UsageRows:
    """What users use, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def get(self, user_id: UUID) -> Usage:
        """What the user uses now."""
        row = await _GET.first(self._tx, {"user_id": user_id})
        return Usage(0, 0) if row is None else Usage._make(row)

    async def free(self, upload_ids: Sequence[UUID]) -> None:
        """Count uploads no more that were let go in this transaction."""
        if upload_ids:
            await self._tx.execute(_LOCK, {"upload_ids": list(upload_ids)})  # in one order, whoever else does it
            await self._tx.execute(_FREE, {"upload_ids": list(upload_ids)})

    async def forget(self, user_id: UUID) -> None:
        """Remove the row of a user who has nothing."""
        await self._tx.execute(delete(UsageTable).where(UsageTable.user_id == user_id))
