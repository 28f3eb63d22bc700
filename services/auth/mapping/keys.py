"""Keys that sign and verify access tokens."""

from datetime import datetime

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.models.keys import SigningKey
from services.kit import base64url
from services.kit.timestamps import to_optional_timestamp, to_timestamp


def to_jwk(row: SigningKey) -> auth_pb2.Jwk:
    """The public half of a key, as RFC 8037 writes it."""
    x = base64url.encode(row.public_key)
    return auth_pb2.Jwk(kty="OKP", crv="Ed25519", kid=row.kid, x=x, alg="EdDSA", use="sig")


def to_signing_key(row: SigningKey, ready_time: datetime) -> pb2.SigningKey:
    """A key, without anything secret."""
    return pb2.SigningKey(
        kid=row.kid,
        state=pb2.SigningKey.State.Value(f"STATE_{row.state}"),
        create_time=to_timestamp(row.create_time),
        ready_time=to_timestamp(ready_time),
        activate_time=to_optional_timestamp(row.activate_time),
        retire_time=to_optional_timestamp(row.retire_time),
        expire_time=to_optional_timestamp(row.expire_time),
    )
