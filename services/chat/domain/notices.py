"""What a Connect stream is told, and what its client wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias
from uuid import UUID

from services.chat.domain.presence import Change
from services.chat.models import Event, Message, Room
from services.kit.errors import DomainError


@dataclass(frozen=True, slots=True)
class Welcome:
    """The stream is open."""

    connection_id: UUID
    user_id: UUID
    max_subscriptions: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The room is followed now; the first event that comes is the one after the cursor."""

    room: Room
    after: int


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The room is no longer followed; the reason, when it was not asked for."""

    room_id: UUID
    reason: DomainError | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The message is stored."""

    message: Message


@dataclass(frozen=True, slots=True)
class Nack:
    """Something was not done. The ids are as the client gave them, if it did."""

    room_id: str
    client_message_id: str
    reason: DomainError


@dataclass(frozen=True, slots=True)
class Events:
    """Events of one room, in order."""

    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class RoomCaughtUp:
    """The stream has everything of the room up to this sequence."""

    room_id: UUID
    sequence: int


@dataclass(frozen=True, slots=True)
class RoomGap:
    """These events of the room are no longer kept."""

    room_id: UUID
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PresenceChanged:
    """Who is connected to the room."""

    room_id: UUID
    user_id: UUID
    change: Change


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server is about to end the stream."""

    reconnect_after: timedelta


@dataclass(frozen=True, slots=True)
class TokenExpiring:
    """The stream ends soon after this moment, unless the client reauthenticates."""

    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Reauthenticated:
    """The stream goes on, until a later moment."""

    expire_time: datetime


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    nonce: int


Notice: TypeAlias = (
    Welcome
    | Subscribed
    | Unsubscribed
    | Ack
    | Nack
    | Events
    | RoomCaughtUp
    | RoomGap
    | PresenceChanged
    | TokenExpiring
    | Reauthenticated
    | GoAway
    | Pong
)


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Follow a room from a cursor."""

    room_id: UUID
    after: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Open the stream and follow rooms."""

    cursors: Sequence[Subscribe]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Stop following a room."""

    room_id: UUID


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message."""

    room_id: UUID
    client_message_id: str
    text: str
    file_ids: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for a pong."""

    nonce: int


Intent: TypeAlias = Hello | Subscribe | Unsubscribe | Send | Ping
