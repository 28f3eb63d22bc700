"""Keys that sign and verify access tokens."""

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.models.keys import PublicKey
from services.kit import base64url


def to_jwk(key: PublicKey) -> pb2.Jwk:
    """A public key as RFC 8037 writes it."""
    return pb2.Jwk(kty="OKP", crv="Ed25519", kid=key.kid, x=base64url.encode(key.raw), alg="EdDSA", use="sig")
