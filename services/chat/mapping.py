"""From rows to messages."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.models import Event, Member, Message, Room
from services.kit.timestamps import to_timestamp


def to_room(room: Room) -> pb2.Room:
    """A room."""
    return pb2.Room(
        id=str(room.id),
        name=room.name,
        description=room.description,
        user_id=str(room.user_id),
        last_sequence=room.last_sequence,
        member_count=room.member_count,
        create_time=to_timestamp(room.create_time),
    )


def to_member(member: Member) -> pb2.Member:
    """A membership."""
    return pb2.Member(user_id=str(member.user_id), join_time=to_timestamp(member.join_time))


def to_message(message: Message) -> pb2.Message:
    """A message of a room."""
    return pb2.Message(
        id=str(message.id),
        room_id=str(message.room_id),
        user_id=str(message.user_id),
        sequence=message.sequence,
        client_message_id=message.client_message_id,
        text=message.text,
        create_time=to_timestamp(message.create_time),
        file_ids=[str(file_id) for file_id in message.file_ids or ()],
    )


def to_ack(message: Message) -> pb2.ConnectResponse.Ack:
    """That a message is stored."""
    return pb2.ConnectResponse.Ack(
        room_id=str(message.room_id),
        client_message_id=message.client_message_id,
        message_id=str(message.id),
        sequence=message.sequence,
        create_time=to_timestamp(message.create_time),
    )


def to_events_field(event: Event) -> bytes:
    """An event as a part of the serialised field `events`, made once however many streams it goes to.

    That field is number 1 in ConnectResponse and in WatchRoomResponse. Serialised messages of one type that stand one
    behind the other parse as one message with all that they say: a response is such parts, joined.
    """
    if event.encoded is None:
        out = pb2.Event(
            room_id=str(event.message.room_id), sequence=event.position, message_sent=to_message(event.message)
        )
        event.encoded = pb2.ConnectResponse(events=[out]).SerializeToString()
    return event.encoded


def to_uuids(texts: Iterable[str]) -> Sequence[UUID]:
    """UUIDs, in their order; one that is spelled in two ways is there once."""
    return list(dict.fromkeys(map(UUID, texts)))


def to_uuid(text: str) -> UUID | None:
    """A UUID that may be left out."""
    return UUID(text) if text else None
