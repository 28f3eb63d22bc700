"""The tables of the schema `file`, and the values that the layers hand each other.

An upload owns parts. A file is an upload that was finished, under the name that its owner sees; the upload's row stays
and goes on owning the parts, so that finishing is one small transaction however large the file is.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.database import schema_metadata


class UploadState(StrEnum):
    """What has become of an upload."""

    OPEN = "OPEN"
    """Its bytes still come; if none came for long, the worker discards it."""
    STORED = "STORED"
    """A file has its parts."""
    DISCARDED = "DISCARDED"
    """Nobody needs its parts: they are being removed. It stays so."""


class Base(DeclarativeBase):
    """The tables of this service."""

    metadata = schema_metadata("file")
    type_annotation_map: ClassVar = {datetime: TIMESTAMP(timezone=True), int: BigInteger}


class UploadTable(Base):
    """One row an upload of which a part was stored, or that is a file."""

    __tablename__ = "uploads"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    state: Mapped[str]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    """Its last sign of life while it is open."""


class PartTable(Base):
    """One row a part, written before the part is: there is no part in the store that nobody knows of."""

    __tablename__ = "parts"

    upload_id: Mapped[UUID] = mapped_column(primary_key=True)
    offset_bytes: Mapped[int] = mapped_column(primary_key=True)
    size_bytes: Mapped[int]
    crc32c: Mapped[int]
    key: Mapped[str]
    """Its name in the store."""


class FileTable(Base):
    """One row a file that is stored whole; a deleted one stays until its bytes are removed."""

    __tablename__ = "files"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    upload_id: Mapped[UUID]
    filename: Mapped[str]
    content_type: Mapped[str]
    size_bytes: Mapped[int]
    sha256: Mapped[bytes]
    create_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]


@dataclass(frozen=True, slots=True)
class Start:
    """What the client says of a file before its bytes."""

    filename: str
    content_type: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a file's bytes as the client sent it; `crc32c` only if it was sent along."""

    offset: int
    data: bytes
    crc32c: int | None


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a file, and what is to hold of it."""

    size_bytes: int | None
    sha256: bytes | None


Step = Start | Chunk | Finish


class StoredFile(NamedTuple):
    """A file that is stored whole. Its fields are columns of FileTable, so that a row becomes one at no cost."""

    id: UUID
    user_id: UUID
    upload_id: UUID
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    create_time: datetime


class Part(NamedTuple):
    """A run of an upload's bytes as it is kept: immutable, under a name that is never used again.

    Its fields are columns of PartTable.
    """

    offset_bytes: int
    size_bytes: int
    crc32c: int
    key: str


class Piece(NamedTuple):
    """A run of a file's bytes on its way to the client, with its crc32c."""

    offset: int
    data: bytes
    crc32c: int
