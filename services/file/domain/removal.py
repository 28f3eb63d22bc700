"""Removing the parts of uploads that nobody needs any more: bytes first, then the rows that know of them.

All of it can be broken off and repeated anywhere, and several may do it at once.
"""

from collections import defaultdict
from datetime import datetime, timedelta
from uuid import UUID

from services.file.repository.parts import PartRows
from services.file.repository.reserved import ReservedRows
from services.file.repository.uploads import UploadRows
from services.file.store import PartStore
from services.kit.database import Database

PARTS_AT_A_TIME = 200
NAMES_KEPT = timedelta(hours=24)
"""How long the `request_id` of an upload that is removed is recognised, from its creation on."""


async def remove_discarded(db: Database, store: PartStore, upload_id: UUID, now: datetime) -> None:
    """Remove a DISCARDED upload; its row stays as REMOVED for as long as its `request_id` is to be recognised.

    Raises StoreFailed.
    """
    await remove_upload(db, store, upload_id, named_before=now - NAMES_KEPT)


async def remove_upload(db: Database, store: PartStore, upload_id: UUID, *, named_before: datetime) -> None:
    """Remove a DISCARDED upload; its row stays as REMOVED if its `request_id` was given since `named_before`.

    Raises StoreFailed.
    """
    while True:
        async with db.read() as tx:
            parts = await PartRows(tx).list_all(upload_id, PARTS_AT_A_TIME)
        if not parts:
            break
        keys = [part.key for part in parts]
        await store.delete(keys)
        async with db.transaction() as tx:
            await PartRows(tx).delete(upload_id, keys)
    async with db.transaction() as tx:
        await UploadRows(tx).remove(upload_id, named_before=named_before)


async def remove_reserved(db: Database, store: PartStore, now: datetime, before: datetime) -> int:
    """Give up the names whose time is over, and remove what is stored under those given up before then; how many.

    Raises StoreFailed.
    """
    given_up = PARTS_AT_A_TIME
    while given_up == PARTS_AT_A_TIME:
        async with db.read() as tx:
            given_up = await ReservedRows(tx).give_up_expired(now, PARTS_AT_A_TIME)
    removed = 0
    while True:
        async with db.read() as tx:
            keys = await ReservedRows(tx).list_given_up(before, PARTS_AT_A_TIME)
        if not keys:
            return removed
        await store.delete(keys)
        async with db.read() as tx:
            await ReservedRows(tx).forget(keys)
        removed += len(keys)


async def remove_given_up(db: Database, store: PartStore, before: datetime) -> int:
    """Remove the parts that were given up before then; how many. Raises StoreFailed."""
    removed = 0
    while True:
        async with db.read() as tx:
            given_up = await PartRows(tx).list_given_up(before, PARTS_AT_A_TIME)
        if not given_up:
            return removed
        await store.delete([key for _, key in given_up])
        keys_of: dict[UUID, list[str]] = defaultdict(list)
        for upload_id, key in given_up:
            keys_of[upload_id].append(key)
        async with db.transaction() as tx:
            for upload_id, keys in keys_of.items():
                await PartRows(tx).delete(upload_id, keys)
        removed += len(given_up)
