"""Files that are stored whole."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Uuid, any_, bindparam, delete, literal_column, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.models import FileChanges, FileTable, Part, PartTable, StoredFile
from services.kit.filters import Filter, caseless, moment, text
from services.kit.listing import NewestFirst
from services.kit.ordering import Order, Ordering, by_moment, by_number, by_text
from services.kit.pages import Page, PageRequest
from services.kit.prepared import Prepared

FILTER = Filter(
    {
        "filename": caseless(FileTable.filename),
        "content_type": text(FileTable.content_type),
        "sniffed_content_type": text(FileTable.sniffed_content_type),
        "create_time": moment(FileTable.create_time),
    }
)
"""What the list of files can be filtered by."""

ORDERING = Ordering(
    {
        "create_time": by_moment(FileTable.create_time),
        "update_time": by_moment(FileTable.update_time),
        "filename": by_text(FileTable.filename),
        "size_bytes": by_number(FileTable.size_bytes),
    }
)
"""What the list of files can be ordered by."""

_FILE = tuple(getattr(FileTable, name) for name in StoredFile._fields)
_OWNED = FileTable.user_id == bindparam("user_id")
_PRESENT = FileTable.delete_time.is_(None)
_AMONG = FileTable.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
_FIND = Prepared(select(*_FILE).where(_AMONG, _PRESENT))
_PART = tuple(getattr(PartTable, name) for name in Part._fields)
_FIND_WITH_FIRST_PART = Prepared(
    select(*_FILE, *_PART)
    .outerjoin(
        PartTable,
        (PartTable.upload_id == FileTable.upload_id)
        & (PartTable.offset_bytes == literal_column("0"))
        & PartTable.dead_time.is_(None),
    )
    .where(_AMONG, _PRESENT)
)
_IS_KNOWN = select(FileTable.id).where(FileTable.id == bindparam("id"))
_GET_FOR_UPDATE = select(*_FILE).where(FileTable.id == bindparam("id"), _OWNED, _PRESENT).with_for_update()
_OF_UPLOAD = Prepared(select(*_FILE).where(FileTable.upload_id == bindparam("upload_id")))
_DELETED_OR_NOT = select(*_FILE).where(FileTable.id == bindparam("id"), _OWNED).with_for_update()
_LIST = NewestFirst(StoredFile._make, _FILE, _OWNED, _PRESENT)
_LIST_WITH_DELETED = NewestFirst(
    StoredFile._make, _FILE, _OWNED, or_(_PRESENT, FileTable.purge_time > bindparam("now"))
)


class FileRows:
    """The files, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def find(self, file_ids: Sequence[UUID]) -> Mapping[UUID, StoredFile]:
        """The files that there are of these, whosever they are, but those that are deleted."""
        rows = await _FIND.all(self._tx, {"ids": list(file_ids)})
        return {file.id: file for file in map(StoredFile._make, rows)}

    async def find_with_first_part(self, file_ids: Sequence[UUID]) -> Mapping[UUID, tuple[StoredFile, Part | None]]:
        """The same, each with its first part; without one if none is listed."""
        size = len(_FILE)
        rows = await _FIND_WITH_FIRST_PART.all(self._tx, {"ids": list(file_ids)})
        return {
            row[0]: (StoredFile._make(row[:size]), None if row[size] is None else Part._make(row[size:]))
            for row in rows
        }

    async def is_known(self, file_id: UUID) -> bool:
        """Whether there is such a file, whosever it is, deleted or not."""
        return (await self._tx.execute(_IS_KNOWN, {"id": file_id})).first() is not None

    async def get_for_update(self, user_id: UUID, file_id: UUID) -> StoredFile | None:
        """The user's file of this id unless it is deleted, locked until the transaction ends."""
        row = (await self._tx.execute(_GET_FOR_UPDATE, {"id": file_id, "user_id": user_id})).first()
        return None if row is None else StoredFile._make(row)

    async def find_of_upload(self, upload_id: UUID) -> StoredFile | None:
        """The file that an upload has become, deleted or not."""
        row = await _OF_UPLOAD.first(self._tx, {"upload_id": upload_id})
        return None if row is None else StoredFile._make(row)

    async def get_deleted_or_not(self, user_id: UUID, file_id: UUID) -> StoredFile | None:
        """The user's file of this id, deleted or not, locked until the transaction ends."""
        row = (await self._tx.execute(_DELETED_OR_NOT, {"id": file_id, "user_id": user_id})).first()
        return None if row is None else StoredFile._make(row)

    async def list_present(
        self, user_id: UUID, page: PageRequest, conditions: Sequence[ColumnElement[bool]], order: Order | None
    ) -> Page[StoredFile]:
        """A page of the user's files that meet conditions, newest first unless there is an order.

        It tells how many there are in all, at one moment. Raises PageTokenInvalid.
        """
        return await _LIST.page(self._tx, page, *conditions, order=order, user_id=user_id)

    async def list_with_deleted(
        self,
        user_id: UUID,
        page: PageRequest,
        conditions: Sequence[ColumnElement[bool]],
        order: Order | None,
        now: datetime,
    ) -> Page[StoredFile]:
        """The same with deleted files that can be undeleted."""
        return await _LIST_WITH_DELETED.page(self._tx, page, *conditions, order=order, user_id=user_id, now=now)

    async def update(self, file_id: UUID, changes: FileChanges, now: datetime) -> StoredFile:
        """Change a file that is locked, and return it as it is then."""
        values = {**changes, "revision": FileTable.revision + 1, "update_time": now}
        return await self._set(file_id, values)

    async def set_deletion(
        self, file_id: UUID, delete_time: datetime | None, purge_time: datetime | None
    ) -> StoredFile:
        """Delete a file that is locked, or take that back, and return it as it is then."""
        return await self._set(file_id, {"delete_time": delete_time, "purge_time": purge_time})

    async def forget(self, file_id: UUID) -> None:
        """Remove the row of a file that is locked."""
        await self._tx.execute(delete(FileTable).where(FileTable.id == file_id))

    async def forget_due(self, now: datetime, limit: int) -> list[UUID]:
        """Remove the rows of some deleted files whose time has come, and tell the uploads that have their bytes."""
        chosen = (
            select(FileTable.id)
            .where(FileTable.purge_time < now)
            .order_by(FileTable.purge_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        statement = delete(FileTable).where(FileTable.id.in_(chosen)).returning(FileTable.upload_id)
        return list((await self._tx.execute(statement)).scalars())

    async def forget_of(self, user_id: UUID, limit: int) -> list[UUID]:
        """Remove the rows of some files of a user, deleted or not, and tell the uploads that have their bytes."""
        chosen = select(FileTable.id).where(FileTable.user_id == user_id).order_by(FileTable.id).limit(limit)
        statement = delete(FileTable).where(FileTable.id.in_(chosen.with_for_update()))
        return list((await self._tx.execute(statement.returning(FileTable.upload_id))).scalars())

    async def _set(self, file_id: UUID, values: dict[str, object]) -> StoredFile:
        statement = update(FileTable).where(FileTable.id == file_id).values(values).returning(*_FILE)
        return StoredFile._make((await self._tx.execute(statement)).one())
