"""Signing keys."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from sqlalchemy.orm import Mapped, mapped_column

from services.auth.models.base import Base


class KeyState(StrEnum):
    """What a signing key is used for."""

    PUBLISHED = "PUBLISHED"
    """Known to verifiers before it signs."""
    ACTIVE = "ACTIVE"
    """Signs. There is at most one."""
    RETIRED = "RETIRED"
    """Signs no more; what it has signed is good until it expires."""


class SigningKeyTable(Base):
    """A key pair that signs access tokens; the private half is encrypted."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    public_key: Mapped[bytes]
    private_key: Mapped[bytes]
    create_time: Mapped[datetime]
    activate_time: Mapped[datetime | None]
    retire_time: Mapped[datetime | None]
    expire_time: Mapped[datetime | None]


class SigningKey(NamedTuple):
    """A signing key as stored; `private_key` is encrypted. Its fields are columns of SigningKeyTable."""

    kid: str
    public_key: bytes
    private_key: bytes
    create_time: datetime
    activate_time: datetime | None
    retire_time: datetime | None
    expire_time: datetime | None

    @property
    def state(self) -> KeyState:
        """What it is used for."""
        if self.retire_time is not None:
            return KeyState.RETIRED
        return KeyState.PUBLISHED if self.activate_time is None else KeyState.ACTIVE
