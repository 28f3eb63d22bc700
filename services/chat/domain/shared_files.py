"""Who may read a file because of where it was posted."""

from uuid import UUID

from services.chat.repository.message_files import MessageFileRows
from services.kit.database import Database


class SharedFiles:
    """The files that messages carry. What they are, and whether they are there still, the file service knows."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def check_file_reader(self, user_id: UUID, file_id: UUID) -> bool:
        """Whether the user is at this moment a member of a room that the file was posted to."""
        async with self._db.read() as tx:
            return await MessageFileRows(tx).is_in_room_of(user_id, file_id)
