"""What is left of a user who is being removed for good."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, delete, select, union, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chat.models import ConnectionTable, MemberTable, MessageTable, RoomTable

_ROOMS = (
    union(
        select(RoomTable.id).where(RoomTable.user_id == bindparam("user_id")),
        select(MemberTable.room_id).where(MemberTable.user_id == bindparam("user_id")),
    )
    .order_by("id")
    .limit(bindparam("limit"))
)
_LOCK_ROOM = select(RoomTable.user_id).where(RoomTable.id == bindparam("id")).with_for_update()
_LONGEST_STANDING = (
    select(MemberTable.user_id)
    .where(MemberTable.room_id == bindparam("room_id"), MemberTable.user_id != bindparam("but"))
    .order_by(MemberTable.id)
    .limit(1)
)
_SOME_IN_ROOM = select(MessageTable.id).where(MessageTable.room_id == bindparam("room_id")).limit(bindparam("limit"))
_SOME_OF_USER = select(MessageTable.id).where(MessageTable.user_id == bindparam("user_id")).limit(bindparam("limit"))
_DELETE_IN_ROOM = delete(MessageTable).where(MessageTable.id.in_(_SOME_IN_ROOM.scalar_subquery()))
_DELETE_OF_USER = delete(MessageTable).where(MessageTable.id.in_(_SOME_OF_USER.scalar_subquery()))


class PurgeRows:
    """All that chat has of a user, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def rooms(self, user_id: UUID, limit: int) -> Sequence[UUID]:
        """Some rooms that are the user's or that the user is a member of."""
        return list((await self._tx.execute(_ROOMS, {"user_id": user_id, "limit": limit})).scalars())

    async def lock_room(self, room_id: UUID) -> UUID | None:
        """Whose room it is; nobody joins, leaves or sends until the transaction ends. None if it is gone."""
        return (await self._tx.execute(_LOCK_ROOM, {"id": room_id})).scalar_one_or_none()

    async def longest_standing(self, room_id: UUID, but: UUID) -> UUID | None:
        """The user who has been a member for the longest, others than this one; None if there are no others."""
        return (await self._tx.execute(_LONGEST_STANDING, {"room_id": room_id, "but": but})).scalar_one_or_none()

    async def pass_room(self, room_id: UUID, user_id: UUID) -> None:
        """Make a room another user's, who has not asked for it under any request_id."""
        await self._tx.execute(
            update(RoomTable).where(RoomTable.id == room_id).values(user_id=user_id, request_id=None, draft_digest=None)
        )

    async def delete_messages_in(self, room_id: UUID, limit: int) -> int:
        """Remove some messages of a room, whoever sent them; how many."""
        return (await self._tx.execute(_DELETE_IN_ROOM, {"room_id": room_id, "limit": limit})).rowcount

    async def delete_room(self, room_id: UUID) -> None:
        """Remove a room with all that refers to it."""
        await self._tx.execute(delete(ConnectionTable).where(ConnectionTable.room_id == room_id))
        await self._tx.execute(delete(RoomTable).where(RoomTable.id == room_id))

    async def delete_messages_of(self, user_id: UUID, limit: int) -> int:
        """Remove some messages of a user, in whatever room; how many. Their sequences are not given again."""
        return (await self._tx.execute(_DELETE_OF_USER, {"user_id": user_id, "limit": limit})).rowcount

    async def delete_connections_of(self, user_id: UUID) -> Sequence[UUID]:
        """Remove a user's connections; the rooms that they were to."""
        statement = delete(ConnectionTable).where(ConnectionTable.user_id == user_id)
        return list((await self._tx.execute(statement.returning(ConnectionTable.room_id))).scalars())
