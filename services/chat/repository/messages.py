"""Messages."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, exc, exists, func, insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chat.models import MemberTable, Message, MessageFileTable, MessageTable, RoomTable

_MESSAGE = tuple(getattr(MessageTable, name) for name in Message._fields)
_ONCE = "uq_messages_client_message_id"

# One statement takes the next number and stores the message under it, so that it is one round trip, holds the room's
# lock for no longer than that, and leaves no hole: where the message cannot be stored, the number is not taken. (A
# parameter that had a column's name would set that column of the room, too: hence `new_`.)
_next = (
    update(RoomTable)
    .where(
        RoomTable.id == bindparam("new_room_id", type_=RoomTable.id.type),
        exists().where(
            MemberTable.room_id == RoomTable.id,
            MemberTable.user_id == bindparam("new_user_id", type_=MemberTable.user_id.type),
        ),
    )
    .values(last_sequence=RoomTable.last_sequence + 1)
    .returning(RoomTable.last_sequence)
    .cte("next")
)
_store = insert(MessageTable).from_select(
    Message._fields,
    select(
        *(
            _next.c.last_sequence
            if name == "sequence"
            else bindparam(f"new_{name}", type_=getattr(MessageTable, name).type)
            for name in Message._fields
        )
    ),
)
_APPEND = _store.returning(MessageTable.sequence)
_stored = _store.returning(MessageTable.room_id, MessageTable.sequence, MessageTable.file_ids).cte("stored")
_APPEND_WITH_FILES = select(_stored.c.sequence).add_cte(
    insert(MessageFileTable)
    .from_select(
        ["room_id", "sequence", "file_id"],
        select(_stored.c.room_id, _stored.c.sequence, func.unnest(_stored.c.file_ids)),
    )
    .cte("listed")
)
_GET_SENT = select(*_MESSAGE).where(
    MessageTable.room_id == bindparam("room_id"),
    MessageTable.user_id == bindparam("user_id"),
    MessageTable.client_message_id == bindparam("client_message_id"),
)
_READ = (
    select(*_MESSAGE)
    .where(MessageTable.room_id == bindparam("room_id"), MessageTable.sequence > bindparam("after"))
    .order_by(MessageTable.sequence)
    .limit(bindparam("limit"))
)
_HEADS = select(RoomTable.id, RoomTable.last_sequence).where(RoomTable.id.in_(bindparam("rooms", expanding=True)))


def _list(*, backwards: bool) -> Select[Any]:
    """The room's head, whether the user is a member, and a page of messages, in one snapshot."""
    edge = bindparam("edge", type_=MessageTable.sequence.type)
    page = (
        select(*_MESSAGE)
        .where(
            MessageTable.room_id == bindparam("room_id"),
            MessageTable.sequence < edge if backwards else MessageTable.sequence > edge,
        )
        .order_by(MessageTable.sequence.desc() if backwards else MessageTable.sequence)
        .limit(bindparam("limit"))
        .subquery("page")
    )
    member = exists().where(MemberTable.room_id == RoomTable.id, MemberTable.user_id == bindparam("user_id"))
    return (
        select(RoomTable.last_sequence, member, *page.c)
        .select_from(RoomTable)
        .outerjoin(page, true())
        .where(RoomTable.id == bindparam("room_id"))
        .order_by(page.c.sequence)
    )


_LIST_FORWARDS = _list(backwards=False)
_LIST_BACKWARDS = _list(backwards=True)


class AlreadySent(Exception):
    """The sender has stored a message under this client_message_id in this room."""


class MessageRows:
    """Messages, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def append(self, message: Message) -> int | None:
        """Store a message as the room's next event and give its sequence; None when the sender is not a member.

        Raises AlreadySent.
        """
        values = {f"new_{name}": value for name, value in message._asdict().items()}
        try:
            statement = _APPEND_WITH_FILES if message.file_ids else _APPEND
            return (await self._tx.execute(statement, values)).scalar_one_or_none()
        except exc.IntegrityError as error:
            diagnosis = getattr(error.orig, "diag", None)
            if getattr(diagnosis, "constraint_name", None) == _ONCE:
                raise AlreadySent from error
            raise

    async def get_sent(self, room_id: UUID, user_id: UUID, client_message_id: str) -> Message | None:
        """The message that was stored under this name, if there is one."""
        values = {"room_id": room_id, "user_id": user_id, "client_message_id": client_message_id}
        row = (await self._tx.execute(_GET_SENT, values)).first()
        return None if row is None else Message._make(row)

    async def read(self, room_id: UUID, after: int, limit: int) -> Sequence[Message]:
        """The first messages after a sequence, in order."""
        rows = await self._tx.execute(_READ, {"room_id": room_id, "after": after, "limit": limit})
        return [Message._make(row) for row in rows]

    async def heads(self, room_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """The last sequence of each of these rooms."""
        return {row[0]: row[1] for row in await self._tx.execute(_HEADS, {"rooms": list(room_ids)})}

    async def list_for_member(
        self, room_id: UUID, user_id: UUID, edge: int, limit: int, *, backwards: bool
    ) -> tuple[bool, int, Sequence[Message]] | None:
        """Whether the user is a member, the room's last sequence, and the messages next to an edge, in order.

        All at one moment; None when there is no such room.
        """
        values = {"room_id": room_id, "user_id": user_id, "edge": edge, "limit": limit}
        rows = (await self._tx.execute(_LIST_BACKWARDS if backwards else _LIST_FORWARDS, values)).all()
        if not rows:
            return None
        return rows[0][1], rows[0][0], [Message._make(row[2:]) for row in rows if row[2] is not None]
