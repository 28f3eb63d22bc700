"""The tables of the schema `file`, and the values that the layers hand each other.

An upload owns parts. A file is an upload that was finished, under the name that its owner sees; the upload's row stays
and goes on owning the parts, so that finishing is one small transaction however large the file is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, TypedDict
from uuid import UUID

from sqlalchemy import BigInteger
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.database import schema_metadata

Labels = Mapping[str, str]


class UploadState(StrEnum):
    """What has become of an upload."""

    OPEN = "OPEN"
    """Its bytes still come; if none came for long, the worker discards it."""
    STORED = "STORED"
    """A file has its parts."""
    DISCARDED = "DISCARDED"
    """Nobody needs its parts: they are being removed. There is no way back."""
    REMOVED = "REMOVED"
    """Its parts are removed; the row stays for a while, so that its `request_id` is recognised."""


class Base(DeclarativeBase):
    """The tables of this service."""

    metadata = schema_metadata("file")
    type_annotation_map: ClassVar = {datetime: TIMESTAMP(timezone=True), int: BigInteger, dict[str, Any]: JSONB}


class UploadTable(Base):
    """One row an upload of which a part was recorded, or that has a name, or that is a file."""

    __tablename__ = "uploads"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    state: Mapped[str]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    """Its last sign of life while it is open."""
    expire_time: Mapped[datetime]
    """When it is given up while it is open."""
    filename: Mapped[str]
    content_type: Mapped[str]
    size_bytes: Mapped[int | None]
    sha256: Mapped[bytes | None]
    crc32c: Mapped[int | None]
    labels: Mapped[dict[str, Any]]
    resumable: Mapped[bool]
    request_id: Mapped[UUID | None]
    draft_digest: Mapped[bytes | None]
    epoch: Mapped[int]
    """One more with each writer: only the newest can record anything."""
    persisted_size: Mapped[int]
    """So many bytes from the beginning are durable. Parts beyond may not be."""


class PartTable(Base):
    """One row a part, written before the part is: there is no part in the store that nobody knows of."""

    __tablename__ = "parts"

    upload_id: Mapped[UUID] = mapped_column(primary_key=True)
    offset_bytes: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """Its name in the store."""
    size_bytes: Mapped[int]
    crc32c: Mapped[int]
    dead_time: Mapped[datetime | None]
    """When it was given up for one that was written anew: it belongs to the upload no more."""


class ReservedPartTable(Base):
    """One row a name that a part may be stored under, before it is known which file the part is of."""

    __tablename__ = "reserved_parts"

    key: Mapped[str] = mapped_column(primary_key=True)
    expire_time: Mapped[datetime]
    """When it is given up, or was."""
    is_given_up: Mapped[bool]
    """Whether it may be used no more, so that what is stored under it can be removed."""


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
    crc32c: Mapped[int | None]
    sniffed_content_type: Mapped[str]
    labels: Mapped[dict[str, Any]]
    revision: Mapped[int]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]
    purge_time: Mapped[datetime | None]


class UsageTable(Base):
    """One row a user who has, or had, files."""

    __tablename__ = "usage"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    bytes: Mapped[int]
    """Of all parts, but those given up, of uploads that are open or files."""
    files: Mapped[int]
    """Uploads that are open or files."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the client says of a file before its bytes."""

    filename: str
    content_type: str
    size_bytes: int | None
    sha256: bytes | None = None
    crc32c: int | None = None
    labels: Labels = field(default_factory=dict)
    request_id: UUID | None = None
    """By which it can be resumed."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Which upload goes on."""

    upload_id: UUID


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
    crc32c: int | None = None


Step = Start | Resume | Chunk | Finish


class Upload(NamedTuple):
    """An upload as the database has it. Its fields are columns of UploadTable, and the id of the file that it is."""

    id: UUID
    user_id: UUID
    state: str
    filename: str
    content_type: str
    size_bytes: int | None
    sha256: bytes | None
    crc32c: int | None
    labels: Labels
    draft_digest: bytes | None
    epoch: int
    persisted_size: int
    create_time: datetime
    expire_time: datetime
    file_id: UUID | None


class Progress(NamedTuple):
    """How far an upload is that can be resumed."""

    upload_id: UUID
    persisted_size: int


class StoredFile(NamedTuple):
    """A file that is stored whole. Its fields are columns of FileTable, so that a row becomes one at no cost."""

    id: UUID
    user_id: UUID
    upload_id: UUID
    filename: str
    content_type: str
    size_bytes: int
    sha256: bytes
    crc32c: int | None
    sniffed_content_type: str
    labels: Labels
    revision: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None = None
    purge_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Stands for this revision of this file."""
        return f"{self.revision}-{self.id.hex[-12:]}"


class FileChanges(TypedDict, total=False):
    """What an owner can change about a file."""

    filename: str
    content_type: str
    labels: Labels


class Part(NamedTuple):
    """A run of an upload's bytes as it is kept: immutable, under a name that is never used again.

    Its fields are columns of PartTable.
    """

    offset_bytes: int
    size_bytes: int
    crc32c: int
    key: str

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset_bytes + self.size_bytes


class Usage(NamedTuple):
    """How much of a quota is used, or may be."""

    bytes: int
    files: int


class Piece(NamedTuple):
    """A run of a file's bytes on its way to the client, with its crc32c."""

    offset: int
    data: bytes
    crc32c: int
