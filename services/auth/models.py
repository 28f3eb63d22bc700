"""The tables of auth, and the values that its use cases answer with."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.database import schema_metadata


class Base(DeclarativeBase):
    """Everything in the schema `auth`."""

    metadata = schema_metadata("auth")
    type_annotation_map = {datetime: TIMESTAMP(timezone=True)}  # noqa: RUF012  # SQLAlchemy reads it as it stands


class UserTable(Base):
    """Somebody who has registered."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    email_key: Mapped[str] = mapped_column(unique=True)
    full_name: Mapped[str]
    password_hash: Mapped[str]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class SessionTable(Base):
    """One signed-in device, from Login to Logout or expiry."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(UserTable.id))
    device_label: Mapped[str]
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    revoke_time: Mapped[datetime | None]


class RefreshTokenTable(Base):
    """A refresh token that was given out, by its hash. The session's newest is the one that is not exchanged."""

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(SessionTable.id))
    create_time: Mapped[datetime]
    exchange_time: Mapped[datetime | None]
    request_id: Mapped[UUID | None]


class SigningKeyTable(Base):
    """A key pair that signs access tokens; the private half is encrypted."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    public_key: Mapped[bytes]
    private_key: Mapped[bytes]
    create_time: Mapped[datetime]


class User(NamedTuple):
    """Somebody who has registered. Its fields are columns of UserTable."""

    id: UUID
    email: str
    full_name: str
    password_hash: str
    create_time: datetime
    update_time: datetime


class Session(NamedTuple):
    """A signed-in device. Its fields are columns of SessionTable."""

    id: UUID
    user_id: UUID
    device_label: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None


class RefreshToken(NamedTuple):
    """What is known of a refresh token. Its fields are columns of RefreshTokenTable."""

    session_id: UUID
    exchange_time: datetime | None
    request_id: UUID | None


class SigningKey(NamedTuple):
    """A signing key as stored; `private_key` is encrypted."""

    kid: str
    public_key: bytes
    private_key: bytes


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies access tokens."""

    kid: str
    raw: bytes


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
