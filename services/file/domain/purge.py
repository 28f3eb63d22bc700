"""Removing a user for good: the files' step of `services.kit.purge`."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import structlog

from services.file.domain.removal import remove_upload
from services.file.repository.files import FileRows
from services.file.repository.uploads import UploadRows
from services.file.repository.usage import UsageRows
from services.file.store import PartStore
from services.kit.database import Database

log = structlog.get_logger()

ROWS_AT_A_TIME = 100
_NO_NAME_IS_KEPT = datetime.max.replace(tzinfo=UTC)


class Purge:
    """Removes a user's files and uploads. It can be broken off and repeated anywhere, and two may do it at once.

    As in the sweep, an upload is discarded first, and that is committed; only then its bytes are removed.
    """

    def __init__(self, db: Database, store: PartStore, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._store = store
        self._clock = clock

    async def purge_user(self, user_id: str) -> None:
        """Remove all files and uploads of the user with their bytes. Raises StoreFailed."""
        user = UUID(user_id)
        files = uploads = 0
        while forgotten := await self._forget_files(user):
            files += forgotten
        while upload_ids := await self._discard_uploads(user):
            for upload_id in upload_ids:
                await remove_upload(self._db, self._store, upload_id, named_before=_NO_NAME_IS_KEPT)
            uploads += len(upload_ids)
        async with self._db.transaction() as tx:
            await UsageRows(tx).forget(user)
        log.info("user purged from files", user_id=user_id, files=files, uploads=uploads)

    async def _forget_files(self, user_id: UUID) -> int:
        async with self._db.transaction() as tx:
            upload_ids = await FileRows(tx).forget_of(user_id, ROWS_AT_A_TIME)
            await UploadRows(tx).discard_stored(upload_ids, self._clock())
        return len(upload_ids)

    async def _discard_uploads(self, user_id: UUID) -> list[UUID]:
        async with self._db.transaction() as tx:
            return await UploadRows(tx).discard_of(user_id, self._clock(), ROWS_AT_A_TIME)
