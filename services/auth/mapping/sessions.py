"""Sessions and their tokens."""

from uuid import UUID

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.models.sessions import Session, SignedIn
from services.kit.timestamps import to_timestamp


def to_session(row: Session, current: UUID | None = None) -> pb2.Session:
    """A session; `current` is the id of the one that the caller calls with."""
    return pb2.Session(
        id=str(row.id),
        device_label=row.device_label,
        create_time=to_timestamp(row.create_time),
        expire_time=to_timestamp(row.expire_time),
        user_agent=row.user_agent,
        address=row.address,
        last_use_time=to_timestamp(row.last_use_time),
        is_current=row.id == current,
    )


def to_tokens(signed_in: SignedIn) -> pb2.TokenPair:
    """The tokens of a session."""
    return pb2.TokenPair(
        access_token=signed_in.access.token,
        token_type="Bearer",
        expire_time=to_timestamp(signed_in.access.expire_time),
        refresh_token=signed_in.refresh_token,
    )
