"""Users, the codes mailed to them, and the counters that slow down guessing."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from services.auth.models.base import Base


class UserState(StrEnum):
    """Whether a user may sign in: only an active one may."""

    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"
    DELETED = "DELETED"
    PURGING = "PURGING"


class CodePurpose(StrEnum):
    """What a mailed code is good for."""

    PASSWORD_RESET = "PASSWORD_RESET"  # no password
    EMAIL_VERIFICATION = "EMAIL_VERIFICATION"


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
    is_admin: Mapped[bool]
    revision: Mapped[int]
    email_verify_time: Mapped[datetime | None]
    disable_time: Mapped[datetime | None]
    delete_time: Mapped[datetime | None]
    purge_time: Mapped[datetime | None]
    """When a deleted user is to be removed for good."""
    purging: Mapped[bool]
    """The removal has begun and cannot be taken back."""


class EmailCodeTable(Base):
    """The newest code that was mailed to a user for a purpose, by its hash."""

    __tablename__ = "email_codes"

    user_id: Mapped[UUID] = mapped_column(ForeignKey(UserTable.id), primary_key=True)
    purpose: Mapped[str] = mapped_column(primary_key=True)
    code_hash: Mapped[bytes]
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    tries: Mapped[int]


class ThrottleTable(Base):
    """How often something failed in succession, and when it may be tried again."""

    __tablename__ = "throttles"

    key: Mapped[bytes] = mapped_column(primary_key=True)
    failures: Mapped[int]
    last_failure_time: Mapped[datetime]
    retry_time: Mapped[datetime]


class Throttle(NamedTuple):
    """How often something failed in succession. Its fields are columns of ThrottleTable."""

    failures: int
    last_failure_time: datetime
    retry_time: datetime


class User(NamedTuple):
    """Somebody who has registered. Its fields are columns of UserTable."""

    id: UUID
    email: str
    full_name: str
    password_hash: str
    create_time: datetime
    update_time: datetime
    is_admin: bool = False
    revision: int = 1
    email_verify_time: datetime | None = None
    disable_time: datetime | None = None
    delete_time: datetime | None = None
    purge_time: datetime | None = None
    purging: bool = False

    @property
    def state(self) -> UserState:
        """Whether the user may sign in."""
        if self.purging:
            return UserState.PURGING
        if self.delete_time is not None:
            return UserState.DELETED
        return UserState.ACTIVE if self.disable_time is None else UserState.DISABLED

    @property
    def etag(self) -> str:
        """Stands for this revision of this user."""
        return f"{self.revision}-{self.id.hex[-12:]}"
