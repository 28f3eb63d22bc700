"""Which rooms files were posted to."""

from uuid import UUID

from sqlalchemy import bindparam, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chat.models import MemberTable, MessageFileTable

_IS_IN_ROOM_OF = select(
    exists().where(
        MessageFileTable.file_id == bindparam("file_id"),
        MessageFileTable.room_id == MemberTable.room_id,
        MemberTable.user_id == bindparam("user_id"),
    )
)


class MessageFileRows:
    """The files of messages, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def is_in_room_of(self, user_id: UUID, file_id: UUID) -> bool:
        """Whether a room that the user is a member of has a message with this file."""
        values = {"user_id": user_id, "file_id": file_id}
        return bool((await self._tx.execute(_IS_IN_ROOM_OF, values)).scalar_one())
