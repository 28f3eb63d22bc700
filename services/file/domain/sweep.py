"""What the worker does for files."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from services.file.domain.removal import remove_discarded
from services.file.repository.files import FileRows
from services.file.repository.parts import PartRows
from services.file.repository.uploads import UploadRows
from services.file.store import PartStore, StoreFailed
from services.kit.database import Database

log = structlog.get_logger()

ROWS_AT_A_TIME = 100
_BEFORE_ALL_IDS = UUID(int=0)


class Sweep:
    """Removes bytes that nobody needs. Every piece of it may be broken off, repeated, and done by several at once.

    An upload is discarded first, and that is committed: from then on it can neither record a part nor become a file,
    whichever process it runs in. Only then its parts are removed.
    """

    def __init__(
        self,
        db: Database,
        store: PartStore,
        *,
        clock: Callable[[], datetime],
        unfinished_after: timedelta,
        deleted_after: timedelta,
    ) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._unfinished_after = unfinished_after
        self._deleted_after = deleted_after

    async def remove_unfinished_uploads(self) -> None:
        """Remove uploads that made no progress for so long, and what others began to remove."""
        before = self._clock() - self._unfinished_after
        discarded = ROWS_AT_A_TIME
        while discarded == ROWS_AT_A_TIME:
            async with self._db.transaction() as tx:
                discarded = await UploadRows(tx).discard_stale(before, ROWS_AT_A_TIME)
        await self._remove_discarded()

    async def remove_deleted_files(self) -> None:
        """Remove the bytes and rows of files that were deleted so long ago."""
        before = self._clock() - self._deleted_after
        forgotten = ROWS_AT_A_TIME
        while forgotten == ROWS_AT_A_TIME:
            async with self._db.transaction() as tx:
                upload_ids = await FileRows(tx).forget_deleted(before, ROWS_AT_A_TIME)
                await UploadRows(tx).discard_stored(upload_ids)
            forgotten = len(upload_ids)
        await self._remove_discarded()

    async def _remove_discarded(self) -> None:
        last = _BEFORE_ALL_IDS
        removed = failed = 0
        while True:
            async with self._db.read() as tx:
                upload_ids = await UploadRows(tx).list_discarded(last, ROWS_AT_A_TIME)
            if not upload_ids:
                break
            for upload_id in upload_ids:
                try:
                    await remove_discarded(self._db, self._store, upload_id)
                    removed += 1
                except StoreFailed as error:  # It stays discarded, and the next run tries again.
                    failed += 1
                    log.warning("store failed", upload_id=str(upload_id), cause=str(error))
            last = upload_ids[-1]
        if removed or failed:
            log.info("uploads removed", removed=removed, failed=failed)
