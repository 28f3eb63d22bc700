"""Rooms and their members. Every room is open to every signed-in user; what is said in it, to its members."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.chat.domain.memberships import Memberships
from services.chat.errors import NotAMember, RoomNotFound
from services.chat.models import Member, Room
from services.chat.repository.rooms import RoomRows
from services.kit.database import Database
from services.kit.errors import RequestIdReused
from services.kit.ids import uuid7
from services.kit.pages import Page, PageRequest


@dataclass(frozen=True, slots=True)
class RoomDraft:
    """What a user decides about a new room."""

    name: str
    description: str

    def digest(self) -> bytes:
        """Equal for equal drafts."""
        return hashlib.sha256(json.dumps([self.name, self.description]).encode()).digest()


class Rooms:
    """The rooms of all users."""

    def __init__(self, db: Database, memberships: Memberships, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._memberships = memberships
        self._clock = clock

    async def create_room(self, user_id: UUID, draft: RoomDraft, request_id: UUID | None) -> Room:
        """Create a room with the user as its first member.

        The same draft under the same `request_id` gives the room that the first one created. Raises RequestIdReused.
        """
        now = self._clock()
        room = Room(
            id=uuid7(),
            name=draft.name,
            description=draft.description,
            user_id=user_id,
            last_sequence=0,
            member_count=0,
            create_time=now,
        )
        async with self._db.transaction() as tx:
            rows = RoomRows(tx)
            if await rows.insert(room, request_id, draft.digest()):
                await rows.add_member(Member(uuid7(), room.id, user_id, now))
                return room._replace(member_count=1)
            assert request_id is not None
            first_digest, first = await rows.find_created(user_id, request_id)
        if first_digest != draft.digest():
            raise RequestIdReused
        return first

    async def get_room(self, room_id: UUID) -> Room:
        """One room. Raises RoomNotFound."""
        async with self._db.read() as tx:
            room = await RoomRows(tx).get(room_id)
        if room is None:
            raise RoomNotFound
        return room

    async def list_rooms(self, page: PageRequest, *, joined_by: UUID | None) -> Page[Room]:
        """All rooms, or those that a user is a member of, newest first."""
        async with self._db.read() as tx:
            return await RoomRows(tx).list_newest_first(page, joined_by)

    async def join_room(self, user_id: UUID, room_id: UUID) -> Member:
        """Make the user a member; one who is stays what he is. Raises RoomNotFound."""
        async with self._db.transaction() as tx:
            member = await RoomRows(tx).add_member(Member(uuid7(), room_id, user_id, self._clock()))
        if member is None:
            raise RoomNotFound
        return member

    async def leave_room(self, user_id: UUID, room_id: UUID) -> None:
        """End the user's membership, and with it every following of the room. Raises RoomNotFound, NotAMember."""
        async with self._db.transaction() as tx:
            rows = RoomRows(tx)
            if not await rows.delete_member(room_id, user_id):
                raise RoomNotFound if await rows.get(room_id) is None else NotAMember
        self._memberships.hint(room_id)

    async def list_members(self, user_id: UUID, room_id: UUID, page: PageRequest) -> Page[Member]:
        """The members in the order in which they joined. Raises RoomNotFound, NotAMember."""
        async with self._db.read() as tx:
            found = await RoomRows(tx).list_members(room_id, user_id, page)
        if found is None:
            raise RoomNotFound
        is_member, members = found
        if not is_member:
            raise NotAMember
        return members
