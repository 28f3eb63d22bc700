"""Messages: stored once under their sender's name for them, numbered without holes, then shown."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.chat.errors import ClientMessageIdReused, FileNotFound, NotAMember, RoomNotFound
from services.chat.models import Event, Message
from services.chat.posted_files import PostedFiles
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

    def __init__(self, db: Database, events: Feed[Event], files: PostedFiles, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._events = events
        self._files = files
        self._clock = clock

    async def send_message(
        self, user_id: UUID, room_id: UUID, client_message_id: str, text: str, file_ids: Sequence[UUID] = ()
    ) -> Message:
        """Store a message and show it to who follows the room.

        The same text and files under the same `client_message_id` give the message that the first one stored, for ever,
        and take no number. Raises RoomNotFound, NotAMember, ClientMessageIdReused; of a message with files also
        FileNotFound, DependencyUnavailable.
        """
        draft = Message(
            uuid7(), room_id, 0, user_id, client_message_id, text, self._clock(), list(file_ids) if file_ids else None
        )
        unreadable = None
        if file_ids:
            async with self._db.read() as tx:  # A repeat does not ask for files that may be gone by now.
                if (first := await _sent_before(tx, draft)) is not None:
                    return first
                await _check_member(tx, draft)
            unreadable = await self._files.first_unreadable(file_ids)
        sequence = None
        async with self._db.read() as tx:  # The append is one statement: it commits itself, at one round trip.
            with suppress(AlreadySent):
                if unreadable is None:
                    sequence = await MessageRows(tx).append(draft)
            if sequence is None:
                # Also for who has left the room: what was stored stays so, and its retry must not say otherwise.
                if (first := await _sent_before(tx, draft)) is not None:
                    return first
                await _check_member(tx, draft)
                raise NotAMember if unreadable is None else FileNotFound(unreadable)
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


async def _sent_before(tx: AsyncConnection, draft: Message) -> Message | None:
    """The message that the same draft has stored, if it has. Raises ClientMessageIdReused."""
    first = await MessageRows(tx).get_sent(draft.room_id, draft.user_id, draft.client_message_id)
    if first is not None and (first.text, first.file_ids) != (draft.text, draft.file_ids):
        raise ClientMessageIdReused
    return first


async def _check_member(tx: AsyncConnection, draft: Message) -> None:
    """Raises RoomNotFound or NotAMember if its sender may not send the draft."""
    found = await RoomRows(tx).get_for_member(draft.room_id, draft.user_id)
    if found is None:
        raise RoomNotFound
    if found[1] is None:
        raise NotAMember
