"""Removing the parts of an upload that was discarded."""

from uuid import UUID

from services.file.repository import UploadRows
from services.file.store import PartStore
from services.kit.database import Database

PARTS_AT_A_TIME = 200


async def remove_discarded(db: Database, store: PartStore, upload_id: UUID) -> None:
    """Remove a DISCARDED upload: bytes first, then the rows that know of them.

    It can be broken off and repeated anywhere, and two may do it at once. Raises StoreFailed.
    """
    while True:
        async with db.read() as tx:
            parts = await UploadRows(tx).list_parts(upload_id, PARTS_AT_A_TIME)
        if not parts:
            break
        await store.delete([part.key for part in parts])
        async with db.transaction() as tx:
            await UploadRows(tx).delete_parts(upload_id, parts)
    async with db.transaction() as tx:
        await UploadRows(tx).delete(upload_id)
