"""From rows and values to messages."""

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.models import PublicKey, Session, SignedIn, User
from services.kit import base64url
from services.kit.timestamps import to_timestamp


def to_user(row: User) -> pb2.User:
    """A user, without anything secret."""
    return pb2.User(
        id=str(row.id),
        email=row.email,
        full_name=row.full_name,
        create_time=to_timestamp(row.create_time),
        update_time=to_timestamp(row.update_time),
    )


def to_session(row: Session) -> pb2.Session:
    """A session."""
    return pb2.Session(
        id=str(row.id),
        device_label=row.device_label,
        create_time=to_timestamp(row.create_time),
        expire_time=to_timestamp(row.expire_time),
    )


def to_tokens(signed_in: SignedIn) -> pb2.TokenPair:
    """The tokens of a session."""
    return pb2.TokenPair(
        access_token=signed_in.access.token,
        token_type="Bearer",
        expire_time=to_timestamp(signed_in.access.expire_time),
        refresh_token=signed_in.refresh_token,
    )


def to_jwk(key: PublicKey) -> pb2.Jwk:
    """A public key as RFC 8037 writes it."""
    return pb2.Jwk(kty="OKP", crv="Ed25519", kid=key.kid, x=base64url.encode(key.raw), alg="EdDSA", use="sig")
