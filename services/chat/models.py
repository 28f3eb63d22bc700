"""The tables of chat, and what is read from them."""

from datetime import datetime
from typing import ClassVar, NamedTuple
from uuid import UUID

from sqlalchemy import TIMESTAMP, BigInteger, Uuid
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.database import schema_metadata


class Base(DeclarativeBase):
    """The tables of the schema `chat`."""

    metadata = schema_metadata("chat")
    type_annotation_map: ClassVar = {datetime: TIMESTAMP(timezone=True), int: BigInteger, list[UUID]: ARRAY(Uuid)}


class RoomTable(Base):
    """One row a room."""

    __tablename__ = "rooms"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    user_id: Mapped[UUID]
    last_sequence: Mapped[int]
    member_count: Mapped[int]
    create_time: Mapped[datetime]
    request_id: Mapped[UUID | None]
    draft_digest: Mapped[bytes | None]


class MemberTable(Base):
    """One row for each room that a user is a member of."""

    __tablename__ = "members"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room_id: Mapped[UUID]
    user_id: Mapped[UUID]
    join_time: Mapped[datetime]


class MessageTable(Base):
    """One row a message; so far every event of a room is one."""

    __tablename__ = "messages"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room_id: Mapped[UUID]
    sequence: Mapped[int]
    user_id: Mapped[UUID]
    client_message_id: Mapped[str]
    text: Mapped[str]
    create_time: Mapped[datetime]
    file_ids: Mapped[list[UUID] | None]


class MessageFileTable(Base):
    """One row a file that a message carries: the way from the file to the rooms that it was posted to."""

    __tablename__ = "message_files"

    room_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[UUID] = mapped_column(primary_key=True)


class ProcessTable(Base):
    """One row a running server process, with its lease."""

    __tablename__ = "processes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    expire_time: Mapped[datetime]


class ConnectionTable(Base):
    """One row for each room that a Connect stream follows; gone with its process."""

    __tablename__ = "connections"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    room_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    process_id: Mapped[UUID]


class Room(NamedTuple):
    """A room. Its fields are columns of RoomTable, so that a row becomes one at no cost; so with those below."""

    id: UUID
    name: str
    description: str
    user_id: UUID
    last_sequence: int
    member_count: int
    create_time: datetime


class Member(NamedTuple):
    """That a user belongs to a room. A user who leaves and joins again gets another `id`."""

    id: UUID
    room_id: UUID
    user_id: UUID
    join_time: datetime


class Message(NamedTuple):
    """Something said in a room."""

    id: UUID
    room_id: UUID
    sequence: int
    user_id: UUID
    client_message_id: str
    text: str
    create_time: datetime
    file_ids: list[UUID] | None
    """None for a message without files, which then costs nothing to read or store."""


class Connection(NamedTuple):
    """That a user's Connect stream follows a room."""

    id: UUID
    room_id: UUID
    user_id: UUID


class Event:
    """Something that happened in a room and stays, at its position."""

    __slots__ = ("encoded", "message", "position")

    def __init__(self, message: Message) -> None:
        self.position = message.sequence
        self.message = message
        self.encoded: bytes | None = None
        """A place for whoever sends the event, so that it is serialised once for all followers."""
