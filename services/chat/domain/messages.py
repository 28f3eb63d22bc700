"""Messages: stored once under their sender's name for them, numbered without holes, then shown."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from services.chat.errors import ClientMessageIdReused, NotAMember, RoomNotFound
from services.chat.models import Event, Message
from services.chat.repository.messages import AlreadySent, MessageRows
from services.chat.repository.rooms import RoomRows
from services.kit.database import Database
from services.kit.feed import Feed
from services.kit.ids import uuid7


class RoomEvents:
    """The events of rooms as a feed's source."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, topic: UUID, after: int, limit: int) -> Sequence[Event]:
        """See feed.Source."""
        async with self._db.read() as tx:
            return [Event(message) for message in await MessageRows(tx).read(topic, after, limit)]

    async def heads(self, topics: Sequence[UUID]) -> Mapping[UUID, int]:
        """See feed.Source."""
        async with self._db.read() as tx:
            return await MessageRows(tx).heads(topics)


class Messages:
    """The messages of all rooms."""

    def __init__(self, db: Database, events: Feed[Event], *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._events = events
        self._clock = clock

    async def send_message(self, user_id: UUID, room_id: UUID, client_message_id: str, text: str) -> Message:
        """Store a message and show it to who follows the room.

        The same text under the same `client_message_id` gives the message that the first one stored, for ever, and
        takes no number. Raises RoomNotFound, NotAMember, ClientMessageIdReused.
        """
        draft = Message(uuid7(), room_id, 0, user_id, client_message_id, text, self._clock())
        async with self._db.read() as tx:  # The append is one statement: it commits itself, at one round trip.
            rows = MessageRows(tx)
            try:
                sequence = await rows.append(draft)
            except AlreadySent:
                sequence = None
            if sequence is None:
                # Also for who has left the room: what was stored stays so, and its retry must not say otherwise.
                first = await rows.get_sent(room_id, user_id, client_message_id)
                if first is None:
                    raise RoomNotFound if await RoomRows(tx).get(room_id) is None else NotAMember
                if first.text != text:
                    raise ClientMessageIdReused
                return first
        message = draft._replace(sequence=sequence)
        self._events.publish(room_id, [Event(message)])
        return message

    async def list_messages(
        self, user_id: UUID, room_id: UUID, *, size: int, after: int = 0, before: int | None = None
    ) -> tuple[Sequence[Message], int]:
        """Messages after or before a sequence, in order, and the room's last sequence at that moment.

        Raises RoomNotFound, NotAMember.
        """
        edge = after if before is None else before
        async with self._db.read() as tx:
            found = await MessageRows(tx).list_for_member(room_id, user_id, edge, size, backwards=before is not None)
        if found is None:
            raise RoomNotFound
        is_member, last_sequence, messages = found
        if not is_member:
            raise NotAMember
        return messages, last_sequence
