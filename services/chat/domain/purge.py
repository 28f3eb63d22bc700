"""Removing a user for good: chat's step of `services.kit.purge`."""

from uuid import UUID

import structlog

from services.chat.domain.memberships import hint_ended
from services.chat.domain.presence import hint_changed
from services.chat.repository.purge import PurgeRows
from services.chat.repository.rooms import RoomRows
from services.kit.bus import Bus
from services.kit.database import Database

log = structlog.get_logger()

ROOMS_AT_A_TIME = 100
MESSAGES_AT_A_TIME = 1_000


class Purge:
    """Removes what chat has of a user. It can be broken off and repeated anywhere, and two may do it at once.

    A removed message leaves its sequence behind: who reads the room gets a gap there. Who follows it has the message
    already, and goes on.
    """

    def __init__(self, db: Database, bus: Bus) -> None:
        self._db = db
        self._bus = bus

    async def purge_user(self, user_id: str) -> None:
        """End the user's memberships, remove the rooms where nobody else is and all messages."""
        user = UUID(user_id)
        rooms = messages = 0
        while room_ids := await self._some_rooms(user):
            for room_id in room_ids:
                while not await self._leave_room(user, room_id):
                    pass
                hint_ended(self._bus, room_id)
            rooms += len(room_ids)
        while removed := await self._remove_messages(user):
            messages += removed
        async with self._db.transaction() as tx:
            connected = await PurgeRows(tx).delete_connections_of(user)
        hint_changed(self._bus, connected)
        log.info("user purged from chat", user_id=user_id, rooms=rooms, messages=messages)

    async def _some_rooms(self, user_id: UUID) -> list[UUID]:
        async with self._db.read() as tx:
            return list(await PurgeRows(tx).rooms(user_id, ROOMS_AT_A_TIME))

    async def _leave_room(self, user_id: UUID, room_id: UUID) -> bool:
        """Take the user out of a room, which is another member's then, or is gone; False if there is more to do."""
        async with self._db.transaction() as tx:
            rows = PurgeRows(tx)
            owner_id = await rows.lock_room(room_id)
            if owner_id is None:
                return True
            successor_id = await rows.longest_standing(room_id, but=user_id)
            if successor_id is not None:
                if owner_id == user_id:
                    await rows.pass_room(room_id, successor_id)
                await RoomRows(tx).delete_member(room_id, user_id)
                return True
            # With the room they would go as well, but all in one statement.
            if await rows.delete_messages_in(room_id, MESSAGES_AT_A_TIME) == MESSAGES_AT_A_TIME:
                return False
            await rows.delete_room(room_id)
            return True

    async def _remove_messages(self, user_id: UUID) -> int:
        async with self._db.transaction() as tx:
            return await PurgeRows(tx).delete_messages_of(user_id, MESSAGES_AT_A_TIME)
