"""The files of a user."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.file.domain.readers import Readers
from services.file.errors import EtagMismatch, FileNotDeleted, FileNotFound
from services.file.models import FileChanges, StoredFile
from services.file.repository.files import FILTER, ORDERING, FileRows
from services.file.repository.uploads import UploadRows
from services.kit.coalesce import Coalesced
from services.kit.database import Database
from services.kit.pages import Page, PageRequest


class Files:
    """What can be done with stored files. To read are also others' that are shared; else they are not found."""

    def __init__(
        self, db: Database, readers: Readers, *, clock: Callable[[], datetime], deleted_kept: timedelta
    ) -> None:
        self._db = db
        self._readers = readers
        self._clock = clock
        self._deleted_kept = deleted_kept
        self._reads = Coalesced(self._find)

    async def get_file(self, user_id: UUID, file_id: UUID) -> StoredFile:
        """A file that the user may read. Raises FileNotFound, DependencyUnavailable."""
        file = await self._reads.get(file_id)
        if file is None or not await self._readers.is_for(user_id, file):
            raise FileNotFound
        return file

    async def list_files(
        self, user_id: UUID, page: PageRequest, *, written_filter: str, order_by: str, show_deleted: bool
    ) -> Page[StoredFile]:
        """A page of the user's files that a filter lets through, newest first unless another order is asked for.

        Raises FilterInvalid, ValidationFailed, PageTokenInvalid.
        """
        conditions, order = FILTER.read(written_filter), ORDERING.read(order_by)
        async with self._db.read() as tx:
            rows = FileRows(tx)
            if show_deleted:
                return await rows.list_with_deleted(user_id, page, conditions, order, self._clock())
            return await rows.list_present(user_id, page, conditions, order)

    async def update_file(self, user_id: UUID, file_id: UUID, changes: FileChanges, etag: str) -> StoredFile:
        """Change what is noted of a file and return it as it is then: a new revision, unless it is all so already.

        Raises FileNotFound, EtagMismatch.
        """
        async with self._db.transaction() as tx:
            rows = FileRows(tx)
            file = _expected(await rows.get_for_update(user_id, file_id), etag)
            different: Any = {name: value for name, value in changes.items() if value != getattr(file, name)}
            return await rows.update(file.id, different, self._clock()) if different else file

    async def delete_file(self, user_id: UUID, file_id: UUID, etag: str) -> StoredFile:
        """Delete a file; for a while that can be taken back. Downloads that have begun go on.

        Raises FileNotFound, EtagMismatch.
        """
        now = self._clock()
        async with self._db.transaction() as tx:
            rows = FileRows(tx)
            file = _expected(await rows.get_for_update(user_id, file_id), etag)
            return await rows.set_deletion(file.id, now, now + self._deleted_kept)

    async def undelete_file(self, user_id: UUID, file_id: UUID) -> StoredFile:
        """Take back a deletion. Raises FileNotFound, FileNotDeleted."""
        async with self._db.transaction() as tx:
            rows = FileRows(tx)
            file = _expected(await rows.get_deleted_or_not(user_id, file_id), "")
            if file.purge_time is None:
                raise FileNotDeleted
            if file.purge_time <= self._clock():  # Its removal may have begun.
                raise FileNotFound
            return await rows.set_deletion(file.id, None, None)

    async def purge_file(self, user_id: UUID, file_id: UUID, etag: str) -> None:
        """Let a file be gone for good, deleted before or not. Its use of the quota ends; its bytes the sweep removes.

        Raises FileNotFound, EtagMismatch.
        """
        async with self._db.transaction() as tx:
            rows = FileRows(tx)
            file = _expected(await rows.get_deleted_or_not(user_id, file_id), etag)
            await rows.forget(file.id)
            await UploadRows(tx).discard_stored([file.upload_id], self._clock())

    async def _find(self, file_ids: Sequence[UUID]) -> Mapping[UUID, StoredFile]:
        async with self._db.read() as tx:
            return await FileRows(tx).find(file_ids)


def _expected(file: StoredFile | None, etag: str) -> StoredFile:
    """A file that was looked up by its owner, if it is the one that is meant. Raises FileNotFound, EtagMismatch."""
    if file is None:
        raise FileNotFound
    if etag and etag != file.etag:
        raise EtagMismatch
    return file
