"""The tables of auth."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.kit.database import schema_metadata


class Base(DeclarativeBase):
    """Everything in the schema `auth`."""

    metadata = schema_metadata("auth")
    type_annotation_map = {datetime: TIMESTAMP(timezone=True)}  # noqa: RUF012  # SQLAlchemy reads it as it stands


class User(Base):
    """Somebody who has registered."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    email_key: Mapped[str] = mapped_column(unique=True)
    full_name: Mapped[str]
    password_hash: Mapped[str]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class Session(Base):
    """One signed-in device, from Login to Logout or expiry."""

    __tablename__ = "sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(User.id))
    device_label: Mapped[str]
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    revoke_time: Mapped[datetime | None]


class RefreshToken(Base):
    """A refresh token that was given out, by its hash. The session's newest is the one that is not exchanged."""

    __tablename__ = "refresh_tokens"

    token_hash: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(Session.id))
    create_time: Mapped[datetime]
    exchange_time: Mapped[datetime | None]
    request_id: Mapped[UUID | None]


class SigningKey(Base):
    """A key pair that signs access tokens; the private half is encrypted."""

    __tablename__ = "signing_keys"

    kid: Mapped[str] = mapped_column(primary_key=True)
    public_key: Mapped[bytes]
    private_key: Mapped[bytes]
    create_time: Mapped[datetime]
