"""Who is calling: access tokens (RFC 9068), verified once and remembered until they expire."""

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.kit.errors import TokenExpired, TokenInvalid, TokenMissing

ALGORITHM = "EdDSA"
TOKEN_TYPE = "at+jwt"
MAX_TOKEN_BYTES = 4096
_REQUIRED_CLAIMS = ("iss", "aud", "sub", "sid", "client_id", "jti", "iat", "exp")
_KNOWN_HEADERS = {"alg", "typ", "kid"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes the call, as the access token says."""

    user_id: UUID
    session_id: UUID
    client_id: str
    scopes: frozenset[str]
    expires_at: int
    """Unix seconds of the token's `exp`."""


class Keys(Protocol):
    """Where a verifier finds the public keys."""

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this `kid`, looked for anew if it is not known; None if there is none."""


class TokenVerifier:
    """Checks access tokens. A token that was good is remembered, by its bytes, until its `exp`."""

    def __init__(self, keys: Keys, *, issuer: str, audience: str, remembered: int = 16_384) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._remembered: OrderedDict[str, Caller] = OrderedDict()
        self._most = remembered

    def recall(self, token: str) -> Caller | None:
        """The caller of a token that was verified before and has not expired."""
        caller = self._remembered.get(token)
        if caller is None:
            return None
        if caller.expires_at <= time.time():
            del self._remembered[token]
            raise TokenExpired
        return caller

    async def verify(self, token: str) -> Caller:
        """The caller that a token stands for. Raises TokenInvalid or TokenExpired."""
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenInvalid
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenInvalid from error
        kid = header.get("kid")
        if header.get("alg") != ALGORITHM or header.get("typ") != TOKEN_TYPE or not isinstance(kid, str):
            raise TokenInvalid
        if not header.keys() <= _KNOWN_HEADERS:
            raise TokenInvalid
        key = await self._keys.find(kid)
        if key is None:
            raise TokenInvalid
        caller = _caller_of(self._claims(token, key))
        self._remembered[token] = caller
        if len(self._remembered) > self._most:
            self._remembered.popitem(last=False)
        return caller

    def _claims(self, token: str, key: Ed25519PublicKey) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                # `iat` may lie in this machine's future: the clocks of two machines differ by a little.
                options={"require": list(_REQUIRED_CLAIMS), "strict_aud": True, "verify_iat": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenExpired from error
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenInvalid from error
        return claims


def _caller_of(claims: Mapping[str, Any]) -> Caller:
    try:
        return Caller(
            user_id=UUID(claims["sub"]),
            session_id=UUID(claims["sid"]),
            client_id=str(claims["client_id"]),
            scopes=frozenset(str(claims.get("scope", "")).split()),
            expires_at=int(claims["exp"]),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise TokenInvalid from error


def bearer_token(metadata: Any) -> str:
    """The access token in a call's metadata (RFC 6750 §2.1). Raises TokenMissing or TokenInvalid."""
    found = None
    for key, value in metadata or ():
        if key == "authorization":
            if found is not None:
                raise TokenInvalid
            found = value
    if found is None:
        raise TokenMissing
    scheme, _, token = found.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise TokenInvalid
    return str(token)
