"""Sessions, their tokens, and the sequence of those that have ended."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from services.auth.models.base import Base
from services.auth.models.users import UserTable


class SessionTable(Base):
    """One signed-in device, from Login to Logout or expiry."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(UserTable.id))
    device_label: Mapped[str]
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    last_expire_time: Mapped[datetime]
    """No refresh moves expire_time beyond this."""
    last_use_time: Mapped[datetime]
    address: Mapped[str]
    user_agent: Mapped[str]
    revoke_time: Mapped[datetime | None]


class RefreshTokenTable(Base):
    """A refresh token that was given out, by its hash. The session's newest is the one that is not exchanged."""

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(SessionTable.id))
    create_time: Mapped[datetime]
    exchange_time: Mapped[datetime | None]
    request_id: Mapped[UUID | None]


class RevocationTable(Base):
    """Sessions that ended together, in the order of the commits."""

    __tablename__ = "revocations"

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    session_ids: Mapped[list[UUID]]
    subject_id: Mapped[UUID]
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]


class RevocationHeadTable(Base):
    """One row, which counts the revocations: locked from the allocation of a sequence to the commit."""

    __tablename__ = "revocation_head"

    one: Mapped[bool] = mapped_column(primary_key=True)
    last_sequence: Mapped[int] = mapped_column(BigInteger)


class Session(NamedTuple):
    """A signed-in device. Its fields are columns of SessionTable."""

    id: UUID
    user_id: UUID
    device_label: str
    create_time: datetime
    expire_time: datetime
    last_expire_time: datetime
    last_use_time: datetime
    address: str
    user_agent: str
    revoke_time: datetime | None


class RefreshToken(NamedTuple):
    """What is known of a refresh token. Its fields are columns of RefreshTokenTable."""

    session_id: UUID
    exchange_time: datetime | None
    request_id: UUID | None


class Revocation(NamedTuple):
    """Sessions that ended together. Its fields are columns of RevocationTable."""

    sequence: int
    session_ids: list[UUID]
    subject_id: UUID
    create_time: datetime
    expire_time: datetime

    @property
    def position(self) -> int:
        """What a feed calls the sequence."""
        return self.sequence


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed token and when it expires."""

    token: str
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session with its newest tokens."""

    access: AccessToken
    refresh_token: str
    session: Session
