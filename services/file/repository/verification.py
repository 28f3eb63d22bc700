"""What the database says is kept, for whoever compares it with what is."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Text, any_, bindparam, case, func, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.models import FileTable, PartTable, ReservedPartTable, UploadState, UploadTable

_SIZE = case((UploadTable.state == UploadState.STORED, FileTable.size_bytes), else_=UploadTable.persisted_size)
_KEPT = (
    select(UploadTable.id, FileTable.id.label("file_id"), _SIZE.label("size_bytes"))
    .outerjoin(FileTable, FileTable.upload_id == UploadTable.id)
    .where(or_(UploadTable.state == UploadState.STORED, UploadTable.state == UploadState.OPEN))
)
_KEYS = bindparam("keys", type_=ARRAY(Text))
_KNOWN = union_all(
    select(PartTable.key).where(PartTable.key == any_(_KEYS)),
    select(ReservedPartTable.key).where(ReservedPartTable.key == any_(_KEYS)),
)


class Kept(NamedTuple):
    """An upload of which bytes are to be there: all of a file's, deleted or not, and those that can be gone on from."""

    upload_id: UUID
    file_id: UUID | None
    size_bytes: int


class VerificationRows:
    """What is kept, over the connection of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def count_bytes(self) -> int:
        """How many bytes are kept in all."""
        kept = _KEPT.subquery()
        return int((await self._tx.execute(select(func.coalesce(func.sum(kept.c.size_bytes), 0)))).scalar_one())

    async def list_kept(self, after: UUID, limit: int) -> list[Kept]:
        """Some of what is kept, in the order of the uploads' ids, after this one."""
        statement = _KEPT.where(UploadTable.id > after).order_by(UploadTable.id).limit(limit)
        return [Kept._make(row) for row in await self._tx.execute(statement)]

    async def is_kept(self, upload_id: UUID) -> bool:
        """Whether an upload's bytes are to be there."""
        return (await self._tx.execute(_KEPT.where(UploadTable.id == upload_id))).first() is not None

    async def known_among(self, keys: Sequence[str]) -> set[str]:
        """Which of these names are parts', or reserved for one. It looks at all parts: ask for many at once."""
        return set((await self._tx.execute(_KNOWN, {"keys": list(keys)})).scalars())
