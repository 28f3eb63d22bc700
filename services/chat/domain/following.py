"""Following a room: only for members, for as long as they are members."""

from collections.abc import Callable
from types import TracebackType
from typing import Self
from uuid import UUID

from services.chat.domain.memberships import Memberships
from services.chat.domain.notices import Events, RoomCaughtUp, RoomGap
from services.chat.errors import CursorInvalid, NotAMember, RoomNotFound
from services.chat.models import Event, Room
from services.chat.repository.rooms import RoomRows
from services.kit.database import Database
from services.kit.feed import CaughtUp, CursorBeyondHead, Feed, Follower, Gap


class FollowedRoom:
    """A room that a member follows: its events in order, and what else the feed tells.

    Pulling raises NotAMember once the membership has ended.
    """

    def __init__(self, room: Room, after: int, follower: Follower[Event], on_close: Callable[[], None]) -> None:
        self.room = room
        self.after = after
        self._follower = follower
        self._on_close = on_close

    def close(self) -> None:
        """Stop following. Without effect the second time."""
        self._on_close()
        self._follower.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Events | RoomCaughtUp | RoomGap:
        item = await anext(self._follower)
        if isinstance(item, CaughtUp):
            return RoomCaughtUp(self.room.id, item.position)
        if isinstance(item, Gap):
            return RoomGap(self.room.id, item.first, item.last)
        return Events(item)


class Following:
    """The way into the feed of rooms."""

    def __init__(self, db: Database, events: Feed[Event], memberships: Memberships) -> None:
        self._db = db
        self._events = events
        self._memberships = memberships

    async def watch_room(self, user_id: UUID, room_id: UUID, after: int) -> FollowedRoom:
        """Follow a room from a cursor; who gets it closes it. Raises RoomNotFound, NotAMember, CursorInvalid."""
        async with self._db.read() as tx:
            found = await RoomRows(tx).get_for_member(room_id, user_id)
        if found is None:
            raise RoomNotFound
        room, member_id = found
        if member_id is None:
            raise NotAMember
        try:
            follower = await self._events.follow(room_id, after)
        except CursorBeyondHead as error:
            raise CursorInvalid from error
        unwatch = self._memberships.watch(room_id, user_id, member_id, lambda: follower.end(NotAMember()))
        return FollowedRoom(room, after, follower, on_close=unwatch)
