"""The parts of uploads: recorded before they are stored, in the name of the newest writer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Insert,
    Text,
    Uuid,
    any_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.models import FileTable, Part, PartTable, StoredFile, UploadState, UploadTable, Usage, UsageTable
from services.file.repository.usage import room_for
from services.kit.prepared import Prepared

_PART = tuple(getattr(PartTable, name) for name in Part._fields)
_UPLOAD_ID = bindparam("upload_id", type_=Uuid)
_NOW = bindparam("now", type_=UploadTable.update_time.type)
_EXPIRE_TIME = bindparam("expire_time", type_=UploadTable.expire_time.type)
_ZERO: ColumnElement[int] = literal_column("0")
_ONE: ColumnElement[int] = literal_column("1")


def _new_part(behind: CTE) -> Insert:
    """Add a part, if a statement before let anything through."""
    values = (bindparam(f"part_{name}", type_=column.type) for name, column in zip(Part._fields, _PART, strict=True))
    return (
        insert(PartTable)
        .from_select(["upload_id", *Part._fields], select(_UPLOAD_ID, *values).select_from(behind))
        .returning(PartTable.key)
    )


def _new_upload(state: UploadState) -> CTE:
    """Add an upload that has no name, and count it, if the quota has room for it."""
    user_id = bindparam("user_id", type_=Uuid)
    added = select(user_id.label("user_id"), bindparam("size", type_=BigInteger).label("bytes"), _ONE.label("files"))
    room = room_for(added)
    columns = ["id", "user_id", "state", "create_time", "update_time", "expire_time"]
    values = select(_UPLOAD_ID, room.c.user_id, literal_column(f"'{state}'"), _NOW, _NOW, _EXPIRE_TIME)
    return insert(UploadTable).from_select(columns, values).returning(UploadTable.id).cte("begun")


def _new_file(behind: CTE) -> Insert:
    """Add a file, if a statement before let anything through."""
    names = [name for name in StoredFile._fields if name not in ("delete_time", "purge_time")]
    values = (bindparam(f"file_{name}", type_=getattr(FileTable, name).type) for name in names)
    return insert(FileTable).from_select(names, select(*values).select_from(behind)).returning(FileTable.id)


_HELD = (
    update(UploadTable)
    .where(
        UploadTable.id == _UPLOAD_ID,
        UploadTable.epoch == bindparam("epoch", type_=BigInteger),
        UploadTable.state == literal_column(f"'{UploadState.OPEN}'"),
    )
    .values(
        persisted_size=func.greatest(UploadTable.persisted_size, bindparam("persisted", type_=BigInteger)),
        update_time=_NOW,
        expire_time=_EXPIRE_TIME,
    )
    .returning(UploadTable.user_id)
)
_MARK = Prepared(_HELD)
_held = _HELD.cte("held")
_added = _new_part(
    room_for(select(_held.c.user_id, bindparam("size", type_=BigInteger).label("bytes"), _ZERO.label("files")))
).cte("added_part")  # fmt: skip
_ADD = Prepared(
    select(
        select(func.count()).select_from(_held).scalar_subquery(),
        select(func.count()).select_from(_added).scalar_subquery(),
    )
)
_ADD_FIRST = Prepared(_new_part(_new_upload(UploadState.OPEN)))
_PUBLISH = Prepared(_new_file(_HELD.values(state=literal_column(f"'{UploadState.STORED}'")).cte("stored")))
_PUBLISH_EMPTY = Prepared(_new_file(_new_upload(UploadState.STORED)))

_OF_UPLOAD = (PartTable.upload_id == _UPLOAD_ID, PartTable.dead_time.is_(None))
_start_of_holder = (
    select(func.max(PartTable.offset_bytes))
    .where(*_OF_UPLOAD, PartTable.offset_bytes <= bindparam("position", type_=BigInteger))
    .scalar_subquery()
)
_PARTS_FROM = Prepared(
    select(*_PART)
    .where(*_OF_UPLOAD, PartTable.offset_bytes >= _start_of_holder)
    .order_by(PartTable.offset_bytes)
    .limit(bindparam("limit"))
)
_dead = (
    update(PartTable)
    .where(*_OF_UPLOAD, PartTable.offset_bytes >= bindparam("persisted", type_=BigInteger))
    .values(dead_time=bindparam("now"))
    .returning(PartTable.size_bytes)
    .cte("dead")
)
_GIVE_UP = Prepared(
    update(UsageTable)
    .where(UsageTable.user_id == bindparam("owner_id"))
    .values(bytes=UsageTable.bytes - select(func.coalesce(func.sum(_dead.c.size_bytes), 0)).scalar_subquery())
)
_LIVE = (
    select(PartTable.key)
    .join(UploadTable, UploadTable.id == PartTable.upload_id)
    .where(
        PartTable.upload_id == _UPLOAD_ID,
        PartTable.key == any_(bindparam("keys", type_=ARRAY(Text))),
        PartTable.dead_time.is_(None),
        or_(UploadTable.state == UploadState.OPEN, UploadTable.state == UploadState.STORED),
    )
)


class PartRows:
    """The parts, over the connection of one transaction or of one read.

    `add`, `add_first`, `mark` and `publish` are one statement each, which does all that it says or nothing.
    """

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add_first(
        self, user_id: UUID, upload_id: UUID, part: Part, now: datetime, expire_time: datetime, quota: Usage
    ) -> bool:
        """Add an upload that has no name, of epoch 0, with its first part; False if the quota has no room for it."""
        values = {"user_id": user_id, "upload_id": upload_id, "now": now, "expire_time": expire_time}
        return (
            await _ADD_FIRST.first(self._tx, values | _sizes(part.size_bytes, quota) | _prefixed("part", part))
            is not None
        )

    async def add(
        self,
        upload_id: UUID,
        epoch: int,
        part: Part,
        persisted: int,
        now: datetime,
        expire_time: datetime,
        quota: Usage,
    ) -> tuple[bool, bool]:
        """Add a part, and note how many bytes are durable.

        Whether the writer of this epoch still has the upload, and whether the quota had room: only then it is added.
        """
        values = _writing(upload_id, epoch, persisted, now, expire_time)
        row = await _ADD.first(self._tx, values | _sizes(part.size_bytes, quota) | _prefixed("part", part))
        assert row is not None
        return bool(row[0]), bool(row[1])

    async def mark(self, upload_id: UUID, epoch: int, persisted: int, now: datetime, expire_time: datetime) -> bool:
        """Note how many bytes are durable; False if the writer of this epoch has the upload no more."""
        return await _MARK.first(self._tx, _writing(upload_id, epoch, persisted, now, expire_time)) is not None

    async def publish(self, file: StoredFile, epoch: int) -> bool:
        """Make an upload a file; False if the writer of this epoch has the upload no more."""
        values = _writing(file.upload_id, epoch, file.size_bytes, file.create_time, file.create_time)
        return await _PUBLISH.first(self._tx, values | _as_values(file)) is not None

    async def publish_empty(self, file: StoredFile, quota: Usage) -> bool:
        """Add a file without parts whose upload has no name; False if the quota has no room for it."""
        values = {"user_id": file.user_id, "upload_id": file.upload_id} | _sizes(0, quota)
        values |= {"now": file.create_time, "expire_time": file.create_time}
        return await _PUBLISH_EMPTY.first(self._tx, values | _as_values(file)) is not None

    async def give_up(self, user_id: UUID, upload_id: UUID, persisted: int, now: datetime) -> None:
        """Give up the parts of an upload from an offset on. The upload is locked by this transaction."""
        await _GIVE_UP.run(self._tx, {"owner_id": user_id, "upload_id": upload_id, "persisted": persisted, "now": now})

    async def live_among(self, upload_id: UUID, keys: Sequence[str]) -> set[str]:
        """Which of these names of an upload's parts somebody needs."""
        return set((await self._tx.execute(_LIVE, {"upload_id": upload_id, "keys": list(keys)})).scalars())

    async def list_from(self, upload_id: UUID, position: int, limit: int) -> list[Part]:
        """Some parts of an upload in their order, from the one that holds `position`, without those given up."""
        rows = await _PARTS_FROM.all(self._tx, {"upload_id": upload_id, "position": position, "limit": limit})
        return [Part._make(row) for row in rows]

    async def list_all(self, upload_id: UUID, limit: int) -> list[Part]:
        """The first parts of an upload, those given up included."""
        statement = (
            select(*_PART).where(PartTable.upload_id == upload_id).order_by(PartTable.offset_bytes, PartTable.key)
        )
        return [Part._make(row) for row in await self._tx.execute(statement.limit(limit))]

    async def list_given_up(self, before: datetime, limit: int) -> list[tuple[UUID, str]]:
        """The names of some parts that were given up before then, and the uploads that they were of."""
        statement = (
            select(PartTable.upload_id, PartTable.key)
            .where(PartTable.dead_time < before)
            .order_by(PartTable.dead_time)
            .limit(limit)
        )
        return [(upload_id, key) for upload_id, key in await self._tx.execute(statement)]

    async def delete(self, upload_id: UUID, keys: Sequence[str]) -> None:
        """Remove the rows of parts."""
        await self._tx.execute(delete(PartTable).where(PartTable.upload_id == upload_id, PartTable.key.in_(keys)))


def _writing(
    upload_id: UUID, epoch: int, persisted: int, now: datetime, expire_time: datetime
) -> dict[str, Any]:  # fmt: skip
    return {"upload_id": upload_id, "epoch": epoch, "persisted": persisted, "now": now, "expire_time": expire_time}


def _sizes(size: int, quota: Usage) -> dict[str, Any]:
    return {"size": size, "max_bytes": quota.bytes, "max_files": quota.files}


def _prefixed(prefix: str, part: Part) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in part._asdict().items()}


def _as_values(file: StoredFile) -> dict[str, Any]:
    values = {f"file_{name}": value for name, value in file._asdict().items()}
    return values | {"file_labels": Jsonb(dict(file.labels))}
