"""The audit log."""

from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Mapped, mapped_column

from services.auth.models.base import Base


class AuditType(StrEnum):
    """What happened: `parley.auth.v1.AuditEvent.Type`, which says what each means."""

    USER_REGISTERED = "USER_REGISTERED"
    SIGNED_IN = "SIGNED_IN"
    SIGN_IN_FAILED = "SIGN_IN_FAILED"
    SIGNED_OUT = "SIGNED_OUT"
    SESSION_REVOKED = "SESSION_REVOKED"
    REFRESH_TOKEN_REUSED = "REFRESH_TOKEN_REUSED"  # no token
    ACCESS_REFUSED = "ACCESS_REFUSED"
    USER_UPDATED = "USER_UPDATED"
    PASSWORD_CHANGED = "PASSWORD_CHANGED"  # no password, nor are those below
    PASSWORD_CHANGE_FAILED = "PASSWORD_CHANGE_FAILED"
    PASSWORD_RESET_REQUESTED = "PASSWORD_RESET_REQUESTED"
    PASSWORD_RESET = "PASSWORD_RESET"
    PASSWORD_RESET_FAILED = "PASSWORD_RESET_FAILED"
    EMAIL_VERIFICATION_REQUESTED = "EMAIL_VERIFICATION_REQUESTED"
    EMAIL_VERIFIED = "EMAIL_VERIFIED"
    EMAIL_VERIFICATION_FAILED = "EMAIL_VERIFICATION_FAILED"
    USER_DISABLED = "USER_DISABLED"
    USER_ENABLED = "USER_ENABLED"
    USER_DELETED = "USER_DELETED"
    USER_UNDELETED = "USER_UNDELETED"
    USER_PURGE_REQUESTED = "USER_PURGE_REQUESTED"
    USER_PURGED = "USER_PURGED"
    ADMIN_GRANTED = "ADMIN_GRANTED"
    ADMIN_REMOVED = "ADMIN_REMOVED"
    SERVICE_ACCOUNT_CREATED = "SERVICE_ACCOUNT_CREATED"
    SERVICE_SECRET_ROTATED = "SERVICE_SECRET_ROTATED"  # no secret
    SERVICE_ACCOUNT_DELETED = "SERVICE_ACCOUNT_DELETED"
    SERVICE_SIGNED_IN = "SERVICE_SIGNED_IN"
    SERVICE_SIGN_IN_FAILED = "SERVICE_SIGN_IN_FAILED"
    SIGNING_KEY_CREATED = "SIGNING_KEY_CREATED"
    SIGNING_KEY_ACTIVATED = "SIGNING_KEY_ACTIVATED"
    SIGNING_KEY_RETIRED = "SIGNING_KEY_RETIRED"


class AuditEventTable(Base):
    """Something that was done to an account, or tried."""

    __tablename__ = "audit_events"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str]
    create_time: Mapped[datetime]
    actor_id: Mapped[UUID | None]
    subject_id: Mapped[UUID | None]
    session_id: Mapped[UUID | None]
    address: Mapped[str]
    user_agent: Mapped[str]
    details: Mapped[dict[str, Any]]


class AuditEvent(NamedTuple):
    """Something that was done to an account, or tried. Its fields are columns of AuditEventTable."""

    id: UUID
    type: str
    create_time: datetime
    actor_id: UUID | None
    subject_id: UUID | None
    session_id: UUID | None
    address: str
    user_agent: str
    details: dict[str, str]
