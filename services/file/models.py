"""The tables of the schema `file`.

An upload owns parts. A file is an upload that was finished, under the name that its owner sees; the upload's row stays
and goes on owning the parts, so that finishing is one small transaction however large the file is.
"""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar
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
