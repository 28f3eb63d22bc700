"""Removing the parts of an upload that was discarded."""

from datetime import datetime, timedelta
from uuid import UUID

from services.file.repository.parts import PartRows
from services.file.repository.uploads import UploadRows
from services.file.store import PartStore
from services.kit.database import Database

PARTS_AT_A_TIME = 200
NAMES_KEPT = timedelta(days=1)
"""How long a `request_id` is recognised at least."""


async def remove_discarded(db: Database, store: PartStore, upload_id: UUID, now: datetime) -> None:
    """Remove a DISCARDED upload: bytes first, then the rows that know of them.

    It can be broken off and repeated anywhere, and two may do it at once. Raises StoreFailed.
    """
    while True:
        async with db.read() as tx:
            parts = await PartRows(tx).list_all(upload_id, PARTS_AT_A_TIME)
        if not parts:
            break
        await store.delete([part.key for part in parts])
        async with db.transaction() as tx:
            await PartRows(tx).delete(upload_id, [part.key for part in parts])
    async with db.transaction() as tx:
        await UploadRows(tx).remove(upload_id, named_before=now - NAMES_KEPT)
