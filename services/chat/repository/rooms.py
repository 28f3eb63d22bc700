"""Rooms and their members."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, delete, exists, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chat.models import Member, MemberTable, Room, RoomTable
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest

_ROOM = tuple(getattr(RoomTable, name) for name in Room._fields)
_MEMBER = tuple(getattr(MemberTable, name) for name in Member._fields)
_BEFORE_ALL_IDS = UUID(int=0)

_GET = select(*_ROOM).where(RoomTable.id == bindparam("id"))
_GET_FOR_MEMBER = (
    select(*_ROOM, MemberTable.id)
    .outerjoin(MemberTable, (MemberTable.room_id == RoomTable.id) & (MemberTable.user_id == bindparam("user_id")))
    .where(RoomTable.id == bindparam("id"))
)
_FIND_CREATED = select(RoomTable.draft_digest, *_ROOM).where(
    RoomTable.user_id == bindparam("user_id"), RoomTable.request_id == bindparam("request_id")
)
_GET_MEMBER = select(*_MEMBER).where(
    MemberTable.room_id == bindparam("room_id"), MemberTable.user_id == bindparam("user_id")
)
_MEMBERSHIPS = select(*_MEMBER).where(
    tuple_(MemberTable.room_id, MemberTable.user_id).in_(bindparam("pairs", expanding=True))
)
_LIST = NewestFirst(Room._make, _ROOM)
_LIST_JOINED = NewestFirst(
    Room._make,
    _ROOM,
    exists().where(MemberTable.room_id == RoomTable.id, MemberTable.user_id == bindparam("user_id")),
)
_member_page = (
    select(*_MEMBER)
    .where(MemberTable.room_id == bindparam("room_id"), MemberTable.id > bindparam("after"))
    .order_by(MemberTable.id)
    .limit(bindparam("limit"))
    .offset(bindparam("skip"))
    .subquery("page")
)
_LIST_MEMBERS = (
    select(
        exists().where(MemberTable.room_id == RoomTable.id, MemberTable.user_id == bindparam("user_id")),
        RoomTable.member_count,
        *_member_page.c,
    )
    .select_from(RoomTable)
    .outerjoin(_member_page, true())
    .where(RoomTable.id == bindparam("room_id"))
    .order_by(_member_page.c.id)
)


class RoomRows:
    """Rooms and members, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def insert(self, room: Room, request_id: UUID | None, draft_digest: bytes) -> bool:
        """Add a room; False when its creator has used the request_id."""
        values = {**room._asdict(), "request_id": request_id, "draft_digest": draft_digest}
        statement = insert(RoomTable).values(**values).on_conflict_do_nothing(index_elements=["user_id", "request_id"])
        return (await self._tx.execute(statement.returning(RoomTable.id))).first() is not None

    async def find_created(self, user_id: UUID, request_id: UUID) -> tuple[bytes, Room]:
        """What the user's request of this id asked for, as a digest, and the room that it created."""
        row = (await self._tx.execute(_FIND_CREATED, {"user_id": user_id, "request_id": request_id})).one()
        return row[0], Room._make(row[1:])

    async def get(self, room_id: UUID) -> Room | None:
        """The room of this id."""
        row = (await self._tx.execute(_GET, {"id": room_id})).first()
        return None if row is None else Room._make(row)

    async def get_for_member(self, room_id: UUID, user_id: UUID) -> tuple[Room, UUID | None] | None:
        """The room, and the id of the user's membership if there is one."""
        row = (await self._tx.execute(_GET_FOR_MEMBER, {"id": room_id, "user_id": user_id})).first()
        return None if row is None else (Room._make(row[:-1]), row[-1])

    async def list_newest_first(self, page: PageRequest, joined_by: UUID | None) -> Page[Room]:
        """A page of all rooms, or of those that a user is a member of, and how many there are, at one moment."""
        if joined_by is None:
            return await _LIST.page(self._tx, page)
        return await _LIST_JOINED.page(self._tx, page, user_id=joined_by)

    async def list_members(self, room_id: UUID, user_id: UUID, page: PageRequest) -> tuple[bool, Page[Member]] | None:
        """Whether the user is a member, and a page of the members in the order in which they joined; at one moment."""
        values = {
            "room_id": room_id,
            "user_id": user_id,
            "after": page.after or _BEFORE_ALL_IDS,
            "limit": page.size + 1,
            "skip": page.skip,
        }
        rows = (await self._tx.execute(_LIST_MEMBERS, values)).all()
        if not rows:
            return None
        members = [Member._make(row[2:]) for row in rows if row[2] is not None]
        more = len(members) > page.size
        members = members[: page.size]
        next_after = members[-1].id if more else None
        return rows[0][0], Page(members, next_after=next_after, total_size=rows[0][1])

    async def add_member(self, member: Member) -> Member | None:
        """The user's membership of an existing room, added if there was none; None when there is no such room."""
        row = (
            select(
                *(bindparam(name, value, getattr(MemberTable, name).type) for name, value in member._asdict().items())
            )
            .select_from(RoomTable)
            .where(RoomTable.id == member.room_id)
            # A room that is just being removed is waited for, and is not there then.
            .with_for_update(read=True, key_share=True)
        )
        statement = (
            insert(MemberTable)
            .from_select(Member._fields, row)
            .on_conflict_do_nothing(index_elements=["room_id", "user_id"])
            .returning(*_MEMBER)
        )
        added = (await self._tx.execute(statement)).first()
        if added is not None:
            await self._count(member.room_id, 1)
            return Member._make(added)
        return await self.get_member(member.room_id, member.user_id)

    async def get_member(self, room_id: UUID, user_id: UUID) -> Member | None:
        """The user's membership."""
        row = (await self._tx.execute(_GET_MEMBER, {"room_id": room_id, "user_id": user_id})).first()
        return None if row is None else Member._make(row)

    async def delete_member(self, room_id: UUID, user_id: UUID) -> bool:
        """End the user's membership; False when there was none."""
        statement = delete(MemberTable).where(MemberTable.room_id == room_id, MemberTable.user_id == user_id)
        deleted = (await self._tx.execute(statement.returning(MemberTable.id))).first() is not None
        if deleted:
            await self._count(room_id, -1)
        return deleted

    async def memberships(self, pairs: Sequence[tuple[UUID, UUID]]) -> Sequence[Member]:
        """The memberships that there are among these pairs of room and user."""
        return [Member._make(row) for row in await self._tx.execute(_MEMBERSHIPS, {"pairs": pairs})]

    async def _count(self, room_id: UUID, change: int) -> None:
        await self._tx.execute(
            update(RoomTable).where(RoomTable.id == room_id).values(member_count=RoomTable.member_count + change)
        )
