"""The files of a user."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from services.file.domain.readers import Readers
from services.file.errors import FileNotFound
from services.file.models import StoredFile
from services.file.repository.files import FileRows
from services.kit.database import Database
from services.kit.pages import Page, PageRequest


class Files:
    """What a user can do with files that are stored. Those that the user may not read are not found."""

    def __init__(self, db: Database, readers: Readers, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._readers = readers
        self._clock = clock

    async def get_file(self, user_id: UUID, file_id: UUID) -> StoredFile:
        """A file that the user may read. Raises FileNotFound, DependencyUnavailable."""
        async with self._db.read() as tx:
            file = await FileRows(tx).get(file_id)
        if file is None or not await self._readers.is_for(user_id, file):
            raise FileNotFound
        return file

    async def list_files(self, user_id: UUID, page: PageRequest) -> Page[StoredFile]:
        """A page of the user's files, newest first."""
        async with self._db.read() as tx:
            return await FileRows(tx).list_present(user_id, page, (), None)

    async def delete_file(self, user_id: UUID, file_id: UUID) -> None:
        """Delete the user's file: it is not found any more, and its bytes are removed later. Raises FileNotFound."""
        async with self._db.transaction() as tx:
            file = await FileRows(tx).get_deleted_or_not(user_id, file_id)
            if file is None or file.delete_time is not None:
                raise FileNotFound
            now = self._clock()
            await FileRows(tx).set_deletion(file_id, now, now + timedelta(days=30))
