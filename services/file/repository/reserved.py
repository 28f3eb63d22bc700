"""Names of parts that are recorded before it is known which file they will be of, and files stored under one."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import ARRAY, Text, any_, bindparam, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.models import Part, ReservedPartTable, StoredFile, Usage
from services.kit.prepared import Prepared

_KEYS = bindparam("keys", type_=ARRAY(Text))
_RESERVE = Prepared(
    insert(ReservedPartTable).from_select(["key", "expire_time"], select(func.unnest(_KEYS), bindparam("expire_time")))
)
_GIVE_UP = Prepared(
    update(ReservedPartTable)
    .where(ReservedPartTable.key == any_(_KEYS), ReservedPartTable.is_given_up.is_(False))
    .values(is_given_up=True, expire_time=bindparam("now"))
    .returning(ReservedPartTable.key)
)
# All of it or nothing: what has no name reserved any more, or no room, changes nothing.
_PUBLISH = Prepared(
    text(
        """
        WITH item AS (
            SELECT * FROM unnest(
                CAST(:ids AS uuid[]), CAST(:upload_ids AS uuid[]), CAST(:filenames AS text[]),
                CAST(:content_types AS text[]), CAST(:sizes AS bigint[]), CAST(:sha256s AS bytea[]),
                CAST(:crc32cs AS bigint[]), CAST(:sniffed AS text[]), CAST(:labels AS jsonb[]), CAST(:keys AS text[]),
                CAST(:create_times AS timestamptz[])
            ) AS item (
                id, upload_id, filename, content_type, size_bytes, sha256, crc32c, sniffed, labels, key, create_time
            )
        ), held AS (
            SELECT key FROM file.reserved_parts WHERE key = ANY(CAST(:keys AS text[])) AND NOT is_given_up FOR UPDATE
        ), good AS (
            SELECT item.* FROM item JOIN held ON held.key = item.key
        ), room AS (
            INSERT INTO file.usage (user_id, bytes, files)
            SELECT CAST(:user_id AS uuid), sum(size_bytes), count(*) FROM good
            HAVING count(*) > 0
                AND sum(size_bytes) <= CAST(:max_bytes AS bigint) AND count(*) <= CAST(:max_files AS bigint)
            ON CONFLICT (user_id) DO UPDATE
            SET bytes = usage.bytes + excluded.bytes, files = usage.files + excluded.files
            WHERE usage.bytes + excluded.bytes <= CAST(:max_bytes AS bigint)
                AND usage.files + excluded.files <= CAST(:max_files AS bigint)
            RETURNING user_id
        ), used AS (
            DELETE FROM file.reserved_parts USING good, room WHERE reserved_parts.key = good.key
        ), upload AS (
            INSERT INTO file.uploads (id, user_id, state, create_time, update_time, expire_time, persisted_size)
            SELECT upload_id, room.user_id, 'STORED', CAST(:now AS timestamptz), CAST(:now AS timestamptz),
                CAST(:now AS timestamptz), size_bytes
            FROM good, room
        ), part AS (
            INSERT INTO file.parts (upload_id, offset_bytes, size_bytes, crc32c, key)
            SELECT upload_id, 0, size_bytes, crc32c, key FROM good, room
        ), stored AS (
            INSERT INTO file.files (id, user_id, upload_id, filename, content_type, size_bytes, sha256, crc32c,
                sniffed_content_type, labels, create_time, update_time)
            SELECT id, room.user_id, upload_id, filename, content_type, size_bytes, sha256, crc32c,
                sniffed, labels, create_time, create_time
            FROM good, room
            RETURNING id
        )
        SELECT held.key, (SELECT count(*) FROM stored) FROM held
        """
    )
)


class ReservedRows:
    """Reserved names, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def reserve(self, keys: Sequence[str], expire_time: datetime) -> None:
        """Record names under which parts may be stored from now on."""
        await _RESERVE.run(self._tx, {"keys": list(keys), "expire_time": expire_time})

    async def publish(
        self, user_id: UUID, files: Sequence[tuple[StoredFile, Part]], now: datetime, quota: Usage
    ) -> tuple[set[str], bool]:
        """Make files of a user, whose one part each is stored under a reserved name: one statement.

        Which of the names are reserved still, and whether the quota had room for all files of these: only then they are
        there.
        """
        stored = [file for file, _ in files]
        rows = await _PUBLISH.all(
            self._tx,
            {
                "user_id": user_id,
                "ids": [file.id for file in stored],
                "upload_ids": [file.upload_id for file in stored],
                "filenames": [file.filename for file in stored],
                "content_types": [file.content_type for file in stored],
                "sizes": [file.size_bytes for file in stored],
                "sha256s": [file.sha256 for file in stored],
                "crc32cs": [file.crc32c for file in stored],
                "sniffed": [file.sniffed_content_type for file in stored],
                "labels": [Jsonb(dict(file.labels)) for file in stored],
                "keys": [part.key for _, part in files],
                "create_times": [file.create_time for file in stored],
                "now": now,
                "max_bytes": quota.bytes,
                "max_files": quota.files,
            },
        )
        return {key for key, _ in rows}, any(count for _, count in rows)

    async def give_up(self, keys: Sequence[str], now: datetime) -> list[str]:
        """Let these names be used no more; those of them that were reserved still."""
        return [key for (key,) in await _GIVE_UP.all(self._tx, {"keys": list(keys), "now": now})]

    async def give_up_expired(self, now: datetime, limit: int) -> int:
        """Let some names be used no more whose time is over; how many."""
        chosen = (
            select(ReservedPartTable.key)
            .where(ReservedPartTable.is_given_up.is_(False), ReservedPartTable.expire_time < now)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        statement = update(ReservedPartTable).where(ReservedPartTable.key.in_(chosen))
        return (await self._tx.execute(statement.values(is_given_up=True, expire_time=now))).rowcount

    async def list_given_up(self, before: datetime, limit: int) -> list[str]:
        """Some names that were given up before then."""
        statement = (
            select(ReservedPartTable.key)
            .where(ReservedPartTable.is_given_up, ReservedPartTable.expire_time < before)
            .limit(limit)
        )
        return list((await self._tx.execute(statement)).scalars())

    async def forget(self, keys: Sequence[str]) -> None:
        """Remove the rows of names."""
        await self._tx.execute(delete(ReservedPartTable).where(ReservedPartTable.key.in_(keys)))
