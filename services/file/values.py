"""The values that the file service's layers hand each other."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID


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
