"""What the worker does for files."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from services.file.domain.removal import NAMES_KEPT, remove_discarded, remove_given_up, remove_reserved
from services.file.repository.files import FileRows
from services.file.repository.uploads import UploadRows
from services.file.store import PartStore, StoreFailed
from services.kit.database import Database

log = structlog.get_logger()

ROWS_AT_A_TIME = 100
GRACE = timedelta(seconds=60)
"""How long a part may be on its way to the store after nobody needs it any more, in another process."""
_BEFORE_ALL_IDS = UUID(int=0)


class Sweep:
    """Removes bytes that nobody needs. Every piece of it may be broken off, repeated, and done by several at once.

    An upload is discarded first, and that is committed: from then on it can neither record a part nor become a file,
    whichever process it runs in. A part that was recorded before may still be on its way: rows and bytes are removed a
    while later.
    """

    def __init__(self, db: Database, store: PartStore, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._store = store
        self._clock = clock

    async def remove_unfinished_uploads(self) -> None:
        """Remove uploads that have expired, parts that were given up, and what others began to remove."""
        now = self._clock()
        discarded = ROWS_AT_A_TIME
        while discarded == ROWS_AT_A_TIME:
            async with self._db.transaction() as tx:
                discarded = await UploadRows(tx).discard_expired(now, ROWS_AT_A_TIME)
        await self._remove_given_up(now)
        await self._remove_discarded(now)
        async with self._db.transaction() as tx:
            await UploadRows(tx).forget_removed(now - NAMES_KEPT)

    async def remove_deleted_files(self) -> None:
        """Remove the rows and bytes of files that can be undeleted no more."""
        now = self._clock()
        forgotten = ROWS_AT_A_TIME
        while forgotten == ROWS_AT_A_TIME:
            async with self._db.transaction() as tx:
                upload_ids = await FileRows(tx).forget_due(now, ROWS_AT_A_TIME)
                await UploadRows(tx).discard_stored(upload_ids, now)
            forgotten = len(upload_ids)
        await self._remove_discarded(now)

    async def _remove_given_up(self, now: datetime) -> None:
        try:
            removed = await remove_given_up(self._db, self._store, now - GRACE)
            removed += await remove_reserved(self._db, self._store, now, now - GRACE)
        except StoreFailed as error:  # They stay listed, and the next run tries again.
            log.warning("store failed", cause=str(error))
            return
        if removed:
            log.info("parts removed that were given up", removed=removed)

    async def _remove_discarded(self, now: datetime) -> None:
        last = _BEFORE_ALL_IDS
        removed = failed = 0
        while True:
            async with self._db.read() as tx:
                upload_ids = await UploadRows(tx).list_discarded(now - GRACE, last, ROWS_AT_A_TIME)
            if not upload_ids:
                break
            for upload_id in upload_ids:
                try:
                    await remove_discarded(self._db, self._store, upload_id, now)
                    removed += 1
                except StoreFailed as error:  # It stays discarded, and the next run tries again.
                    failed += 1
                    log.warning("store failed", upload_id=str(upload_id), cause=str(error))
            last = upload_ids[-1]
        if removed or failed:
            log.info("uploads removed", removed=removed, failed=failed)
