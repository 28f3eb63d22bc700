"""Every SQL statement of the file service."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.models import FileTable, Part, PartTable, StoredFile, UploadState, UploadTable
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest

_FILE = tuple(getattr(FileTable, name) for name in StoredFile._fields)
_PART = tuple(getattr(PartTable, name) for name in Part._fields)

_OWN = (FileTable.user_id == bindparam("user_id"), FileTable.delete_time.is_(None))
_FIND = select(*_FILE).where(FileTable.id == bindparam("id"), FileTable.delete_time.is_(None))
_LIST = NewestFirst(StoredFile._make, _FILE, *_OWN)

_IS_OPEN = (UploadTable.id == bindparam("upload_id"), UploadTable.state == UploadState.OPEN)
_TOUCH = update(UploadTable).where(*_IS_OPEN).values(update_time=bindparam("now"))
_PARTS = select(*_PART).where(PartTable.upload_id == bindparam("upload_id"))
_start_of_holder = (
    select(func.max(PartTable.offset_bytes))
    .where(PartTable.upload_id == bindparam("upload_id"), PartTable.offset_bytes <= bindparam("position"))
    .scalar_subquery()
)
_SOME_PARTS = _PARTS.order_by(PartTable.offset_bytes).limit(bindparam("limit"))
_PARTS_FROM = _SOME_PARTS.where(PartTable.offset_bytes >= _start_of_holder)


class FileRows:
    """The files, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def find(self, file_id: UUID) -> StoredFile | None:
        """The file of this id, whoever's it is."""
        row = (await self._tx.execute(_FIND, {"id": file_id})).first()
        return None if row is None else StoredFile._make(row)

    async def list_newest_first(self, user_id: UUID, page: PageRequest) -> Page[StoredFile]:
        """A page of the user's files, newest first, and how many there are in all, at one moment."""
        return await _LIST.page(self._tx, page, user_id=user_id)

    async def insert(self, file: StoredFile) -> None:
        """Add a file: from the transaction's end on it is visible."""
        await self._tx.execute(insert(FileTable), file._asdict())

    async def delete(self, user_id: UUID, file_id: UUID, now: datetime) -> bool:
        """Mark the user's file as deleted; False if there is none."""
        statement = (
            update(FileTable)
            .where(FileTable.id == file_id, FileTable.user_id == user_id, FileTable.delete_time.is_(None))
            .values(delete_time=now)
        )
        return (await self._tx.execute(statement)).rowcount == 1

    async def forget_deleted(self, before: datetime, limit: int) -> list[UUID]:
        """Remove the rows of some files that were deleted before then, and tell the uploads that had their bytes."""
        chosen = (
            select(FileTable.id)
            .where(FileTable.delete_time < before)
            .order_by(FileTable.delete_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        statement = delete(FileTable).where(FileTable.id.in_(chosen)).returning(FileTable.upload_id)
        return list((await self._tx.execute(statement)).scalars())

    async def forget_of(self, user_id: UUID, limit: int) -> list[UUID]:
        """Remove the rows of some files of a user, deleted or not, and tell the uploads that had their bytes."""
        chosen = select(FileTable.id).where(FileTable.user_id == user_id).order_by(FileTable.id).limit(limit)
        statement = delete(FileTable).where(FileTable.id.in_(chosen.with_for_update()))
        return list((await self._tx.execute(statement.returning(FileTable.upload_id))).scalars())


class UploadRows:
    """The uploads and their parts, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def insert(self, upload_id: UUID, user_id: UUID, state: UploadState, now: datetime) -> None:
        """Add an upload."""
        await self._tx.execute(
            insert(UploadTable),
            {"id": upload_id, "user_id": user_id, "state": state, "create_time": now, "update_time": now},
        )

    async def insert_part(self, upload_id: UUID, part: Part) -> None:
        """Add a part to an upload."""
        await self._tx.execute(insert(PartTable), {"upload_id": upload_id, **part._asdict()})

    async def touch(self, upload_id: UUID, now: datetime) -> bool:
        """Note that an open upload lives, and hold it so until the transaction ends; False if it is not open."""
        return (await self._tx.execute(_TOUCH, {"upload_id": upload_id, "now": now})).rowcount == 1

    async def finish(self, upload_id: UUID) -> bool:
        """Let an open upload be STORED; False if it is not open."""
        return await self._leave_open(upload_id, UploadState.STORED)

    async def discard(self, upload_id: UUID) -> bool:
        """Let an open upload be DISCARDED; False if it is not open."""
        return await self._leave_open(upload_id, UploadState.DISCARDED)

    async def is_stored(self, upload_id: UUID) -> bool:
        """Whether the upload is a file."""
        statement = select(UploadTable.id).where(UploadTable.id == upload_id, UploadTable.state == UploadState.STORED)
        return (await self._tx.execute(statement)).first() is not None

    async def discard_stale(self, before: datetime, limit: int) -> int:
        """Let some open uploads that were last heard of before then be DISCARDED; how many."""
        chosen = (
            select(UploadTable.id)
            .where(UploadTable.state == UploadState.OPEN, UploadTable.update_time < before)
            .order_by(UploadTable.update_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        statement = update(UploadTable).where(UploadTable.id.in_(chosen)).values(state=UploadState.DISCARDED)
        return (await self._tx.execute(statement)).rowcount

    async def discard_stored(self, upload_ids: Sequence[UUID]) -> None:
        """Let uploads whose files are gone be DISCARDED."""
        statement = update(UploadTable).where(UploadTable.id.in_(upload_ids)).values(state=UploadState.DISCARDED)
        await self._tx.execute(statement)

    async def discard_of(self, user_id: UUID, limit: int) -> list[UUID]:
        """Let some uploads of a user that are no files be DISCARDED, and tell which are."""
        chosen = (
            select(UploadTable.id)
            .where(UploadTable.user_id == user_id, UploadTable.state != UploadState.STORED)
            .order_by(UploadTable.id)
            .limit(limit)
            .with_for_update()
        )
        statement = update(UploadTable).where(UploadTable.id.in_(chosen)).values(state=UploadState.DISCARDED)
        return list((await self._tx.execute(statement.returning(UploadTable.id))).scalars())

    async def list_discarded(self, after: UUID, limit: int) -> list[UUID]:
        """Some discarded uploads, in the order of their ids, after this one."""
        statement = (
            select(UploadTable.id)
            .where(UploadTable.state == UploadState.DISCARDED, UploadTable.id > after)
            .order_by(UploadTable.id)
            .limit(limit)
        )
        return list((await self._tx.execute(statement)).scalars())

    async def list_parts(self, upload_id: UUID, limit: int) -> list[Part]:
        """The first parts of an upload."""
        rows = await self._tx.execute(_SOME_PARTS, {"upload_id": upload_id, "limit": limit})
        return [Part._make(row) for row in rows]

    async def list_parts_from(self, upload_id: UUID, position: int, limit: int) -> list[Part]:
        """Some parts of an upload in their order, from the one that holds the byte at `position`."""
        rows = await self._tx.execute(_PARTS_FROM, {"upload_id": upload_id, "position": position, "limit": limit})
        return [Part._make(row) for row in rows]

    async def delete_parts(self, upload_id: UUID, parts: Sequence[Part]) -> None:
        """Remove the rows of parts."""
        offsets = [part.offset_bytes for part in parts]
        await self._tx.execute(
            delete(PartTable).where(PartTable.upload_id == upload_id, PartTable.offset_bytes.in_(offsets))
        )

    async def delete(self, upload_id: UUID) -> None:
        """Remove the row of an upload that has no parts."""
        await self._tx.execute(delete(UploadTable).where(UploadTable.id == upload_id))

    async def _leave_open(self, upload_id: UUID, state: UploadState) -> bool:
        statement = update(UploadTable).where(*_IS_OPEN).values(state=state)
        return (await self._tx.execute(statement, {"upload_id": upload_id})).rowcount == 1
