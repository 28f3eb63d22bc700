"""Uploads: how they begin, who writes them, and how they end without having become a file."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Uuid,
    bindparam,
    cast,
    delete,
    exists,
    insert,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import BYTEA
from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.models import FileTable, PartTable, Start, Upload, UploadState, UploadTable, Usage
from services.file.repository.usage import UsageRows, room_for
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest

_FILE_ID = (
    select(FileTable.id).where(FileTable.upload_id == UploadTable.id).correlate(UploadTable).scalar_subquery()
).label("file_id")
_COLUMNS: tuple[Any, ...] = tuple(getattr(UploadTable, name) for name in Upload._fields if name != "file_id")
_UPLOAD = (*_COLUMNS, _FILE_ID)
_IS_OPEN = UploadTable.state == UploadState.OPEN
_IS_OWN: tuple[ColumnElement[bool], ...] = (
    UploadTable.user_id == bindparam("owner_id"),
    UploadTable.resumable.is_(True),
)
_LIST = NewestFirst(Upload._make, _UPLOAD, *_IS_OWN, _IS_OPEN)
_room = room_for(
    select(
        bindparam("user_id", type_=Uuid).label("user_id"),
        bindparam("no_bytes", 0, type_=BigInteger).label("bytes"),
        bindparam("one_file", 1, type_=BigInteger).label("files"),
    )
)
_NULLABLE_BYTES = ("sha256", "draft_digest")
_CREATED = [
    column.key
    for column in UploadTable.__table__.columns
    if column.key not in ("update_time", "epoch", "persisted_size")
]


def _created(name: str) -> ColumnElement[Any]:
    value = bindparam(f"new_{name}", type_=getattr(UploadTable, name).type)
    return cast(value, BYTEA) if name in _NULLABLE_BYTES else value


_CREATE = (
    insert(UploadTable)
    .from_select(
        [*_CREATED, "update_time"],
        select(*(_created(name) for name in _CREATED), _created("create_time")).select_from(_room),
    )
    .returning(*_COLUMNS, null().label("file_id"))
)
_TAKE_OVER = (
    update(UploadTable)
    .where(UploadTable.id == bindparam("upload_id"), *_IS_OWN, _IS_OPEN)
    .values(epoch=UploadTable.epoch + 1, update_time=bindparam("now"), expire_time=bindparam("new_expire_time"))
    .returning(*_UPLOAD)
)


class UploadRows:
    """The uploads, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def create(
        self,
        upload_id: UUID,
        user_id: UUID,
        start: Start,
        digest: bytes | None,
        now: datetime,
        expire_time: datetime,
        quota: Usage,
    ) -> Upload | None:
        """Add an upload that can be resumed; None if the quota has no room for it."""
        new: dict[str, Any] = {
            "id": upload_id,
            "user_id": user_id,
            "state": UploadState.OPEN,
            "create_time": now,
            "expire_time": expire_time,
            "filename": start.filename,
            "content_type": start.content_type,
            "size_bytes": start.size_bytes,
            "sha256": start.sha256,
            "crc32c": start.crc32c,
            "labels": dict(start.labels),
            "resumable": True,
            "request_id": start.request_id,
            "draft_digest": digest,
        }
        values = {f"new_{name}": value for name, value in new.items()}
        values |= {"user_id": user_id, "max_bytes": quota.bytes, "max_files": quota.files}
        row = (await self._tx.execute(_CREATE, values)).first()
        return None if row is None else Upload._make(row)

    async def find_created(self, user_id: UUID, request_id: UUID) -> Upload | None:
        """The upload that the user created with this `request_id`, whatever has become of it."""
        return await self._first(UploadTable.user_id == user_id, UploadTable.request_id == request_id)

    async def get(self, user_id: UUID, upload_id: UUID) -> Upload | None:
        """The user's upload of this id, if it can be resumed or is a file."""
        shown = or_(_IS_OPEN, UploadTable.state == UploadState.STORED)
        return await self._first(
            UploadTable.id == upload_id, UploadTable.user_id == user_id, UploadTable.resumable.is_(True), shown
        )

    async def find(self, upload_id: UUID) -> Upload | None:
        """The upload of this id, whatever has become of it."""
        return await self._first(UploadTable.id == upload_id)

    async def list_newest_first(self, user_id: UUID, page: PageRequest) -> Page[Upload]:
        """A page of the user's uploads that can be resumed, newest first, and how many there are in all."""
        return await _LIST.page(self._tx, page, owner_id=user_id)

    async def take_over(self, user_id: UUID, upload_id: UUID, now: datetime, expire_time: datetime) -> Upload | None:
        """Become the writer of an open upload, which is locked until the transaction ends; None if there is none."""
        values = {"owner_id": user_id, "upload_id": upload_id, "now": now, "new_expire_time": expire_time}
        row = (await self._tx.execute(_TAKE_OVER, values)).first()
        return None if row is None else Upload._make(row)

    async def discard(self, user_id: UUID, upload_id: UUID, now: datetime) -> bool:
        """Let an open upload of the user's be DISCARDED; False if it is not open."""
        return bool(await self._discard(now, UploadTable.id == upload_id, UploadTable.user_id == user_id, _IS_OPEN))

    async def discard_expired(self, now: datetime, limit: int) -> int:
        """Let some open uploads that have expired be DISCARDED; how many."""
        chosen = (
            select(UploadTable.id)
            .where(_IS_OPEN, UploadTable.expire_time < now)
            .order_by(UploadTable.expire_time)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return len(await self._discard(now, UploadTable.id.in_(chosen)))

    async def discard_stored(self, upload_ids: Sequence[UUID], now: datetime) -> None:
        """Let uploads whose files are gone be DISCARDED."""
        await self._discard(now, UploadTable.id.in_(upload_ids))

    async def discard_of(self, user_id: UUID, now: datetime, limit: int) -> list[UUID]:
        """Let some uploads of a user that are no files be DISCARDED, and tell which are."""
        chosen = (
            select(UploadTable.id, UploadTable.state)
            .where(UploadTable.user_id == user_id, UploadTable.state != UploadState.STORED)
            .order_by(UploadTable.id)
            .limit(limit)
            .with_for_update()
        )
        found = (await self._tx.execute(chosen)).all()
        await self._discard(now, UploadTable.id.in_([row.id for row in found if row.state == UploadState.OPEN]))
        return [row.id for row in found]

    async def list_discarded(self, before: datetime, after: UUID, limit: int) -> list[UUID]:
        """Some uploads that were discarded before then, in the order of their ids, after this one."""
        statement = (
            select(UploadTable.id)
            .where(UploadTable.state == UploadState.DISCARDED, UploadTable.update_time < before, UploadTable.id > after)
            .order_by(UploadTable.id)
            .limit(limit)
        )
        return list((await self._tx.execute(statement)).scalars())

    async def remove(self, upload_id: UUID, *, named_before: datetime) -> None:
        """Remove the row of a discarded upload, or leave it as REMOVED if its `request_id` was given since then.

        Nothing happens as long as it has parts.
        """
        mine = (
            UploadTable.id == upload_id,
            UploadTable.state != UploadState.STORED,
            UploadTable.state != UploadState.OPEN,
            ~exists().where(PartTable.upload_id == upload_id),
        )
        old = or_(UploadTable.request_id.is_(None), UploadTable.create_time < named_before)
        await self._tx.execute(delete(UploadTable).where(*mine, old))
        await self._tx.execute(update(UploadTable).where(*mine).values(state=UploadState.REMOVED))

    async def forget_removed(self, named_before: datetime) -> None:
        """Remove the rows of removed uploads whose `request_id` was given before then."""
        await self._tx.execute(
            delete(UploadTable).where(UploadTable.state == UploadState.REMOVED, UploadTable.create_time < named_before)
        )

    async def _first(self, *conditions: ColumnElement[bool]) -> Upload | None:
        row = (await self._tx.execute(select(*_UPLOAD).where(*conditions))).first()
        return None if row is None else Upload._make(row)

    async def _discard(self, now: datetime, *conditions: ColumnElement[bool]) -> list[UUID]:
        statement = update(UploadTable).where(*conditions).values(state=UploadState.DISCARDED, update_time=now)
        discarded = list((await self._tx.execute(statement.returning(UploadTable.id))).scalars())
        await UsageRows(self._tx).free(discarded)
        return discarded
