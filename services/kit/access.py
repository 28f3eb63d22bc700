"""Who is calling: access tokens (RFC 9068), verified once and remembered until they expire or their session ends."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.kit import base64url
from services.kit.errors import DependencyUnavailable, SessionRevoked, TokenExpired, TokenInvalid, TokenMissing
from services.kit.revocations import RevokedSessions

ALGORITHM = "EdDSA"
TOKEN_TYPE = "at+jwt"
MAX_TOKEN_BYTES = 4096
CLOCK_SKEW = 30
"""Seconds that the clock of who signs may be ahead of the one here."""
LATEST = 2**40
"""Unix seconds that no token of ours holds."""
SERVICE_SCOPE = "service"
ADMIN_SCOPE = "admin"
_REQUIRED_CLAIMS = ("iss", "aud", "sub", "sid", "client_id", "jti", "iat", "exp")
_KNOWN_HEADERS = {"alg", "typ", "kid"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes the call, as the access token says."""

    user_id: UUID
    """The claim `sub`: a user, or the account of a service."""
    session_id: UUID
    client_id: str
    scopes: frozenset[str]
    methods: frozenset[str]
    """What a service may call: `parley.auth.v1.AuthService/WatchRevocations`, or `parley.auth.v1.AuthService/*`."""
    expires_at: int
    """Unix seconds of the token's `exp`."""

    @property
    def is_service(self) -> bool:
        """Whether it is a service, and no user."""
        return SERVICE_SCOPE in self.scopes

    @property
    def is_admin(self) -> bool:
        """Whether it is a user who is an administrator."""
        return ADMIN_SCOPE in self.scopes and SERVICE_SCOPE not in self.scopes


class Keys(Protocol):
    """Where a verifier finds the public keys."""

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this `kid`, looked for anew if it is not known; None if there is none."""


class TokenVerifier:
    """Checks access tokens. A token that was good is remembered, by its bytes, until its `exp`.

    The remembered tokens of a session that is revoked are marked at that moment, so that no call pays for looking.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        issuer: str,
        audience: str,
        revoked: RevokedSessions | None = None,
        remembered: int = 16_384,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._revoked = RevokedSessions() if revoked is None else revoked
        self._remembered: OrderedDict[str, Caller] = OrderedDict()
        self._of_session: dict[UUID, set[str]] = {}
        self._most = remembered
        self._on_forget: list[Callable[[], None]] = []
        self._revoked.subscribe(self._mark)

    def recall(self, token: str) -> Caller | None:
        """The caller of a token that was verified before. Raises TokenExpired or SessionRevoked."""
        caller = self._remembered.get(token)
        if caller is None:
            return None
        if caller.expires_at <= time.time():
            if caller.session_id in self._revoked:
                raise SessionRevoked
            self._forget(token)
            raise TokenExpired
        return caller

    async def verify(self, token: str) -> Caller:
        """The caller that a token stands for.

        Raises TokenInvalid, TokenExpired, SessionRevoked, and DependencyUnavailable while it is not known yet which
        sessions were revoked.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenInvalid
        try:
            for part in token.split("."):
                base64url.decode(part)  # PyJWT takes a token in several spellings.
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
        if not await self._revoked.until_complete():
            raise DependencyUnavailable
        if caller.session_id in self._revoked:
            raise SessionRevoked
        self._remember(token, caller)
        return caller

    def _claims(self, token: str, key: Ed25519PublicKey) -> Mapping[str, Any]:
        try:
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": list(_REQUIRED_CLAIMS),
                    "strict_aud": True,
                    # Checked below: PyJWT takes texts and fractions for times, and one leeway for all of them.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except (jwt.PyJWTError, ValueError) as error:
            raise TokenInvalid from error
        _check_times(claims, time.time())
        return claims

    def forget_all(self) -> None:
        """Verify all tokens anew when they come next: a key is gone."""
        self._remembered.clear()
        self._of_session.clear()
        for listener in self._on_forget:
            listener()

    def on_forget(self, listener: Callable[[], None]) -> None:
        """Have a function called when all tokens are to be verified anew, those of open streams as well."""
        self._on_forget.append(listener)

    def _remember(self, token: str, caller: Caller) -> None:
        self._remembered[token] = caller
        self._of_session.setdefault(caller.session_id, set()).add(token)
        if len(self._remembered) > self._most:
            self._forget(next(iter(self._remembered)))

    def _forget(self, token: str) -> None:
        caller = self._remembered.pop(token)
        tokens = self._of_session[caller.session_id]
        tokens.discard(token)
        if not tokens:
            del self._of_session[caller.session_id]

    def _mark(self, session_id: UUID) -> None:
        """Let `recall` take the way of expired tokens, on which alone it looks whether a session is revoked."""
        for token in self._of_session.get(session_id, ()):
            self._remembered[token] = replace(self._remembered[token], expires_at=0)


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    """Raises TokenInvalid for times that are no whole numbers or lie too far ahead, and TokenExpired."""
    times = {name: claims[name] for name in ("iat", "nbf", "exp") if name in claims}
    if any(type(value) is not int or value > LATEST for value in times.values()):  # a bool's type is not int
        raise TokenInvalid
    if max(times["iat"], times.get("nbf", 0)) > now + CLOCK_SKEW:
        raise TokenInvalid
    if times["exp"] <= now:
        raise TokenExpired


def _caller_of(claims: Mapping[str, Any]) -> Caller:
    client_id, scope, methods = claims["client_id"], claims.get("scope", ""), claims.get("methods", [])
    if not isinstance(client_id, str) or not isinstance(scope, str):
        raise TokenInvalid
    if not isinstance(methods, list) or not all(isinstance(method, str) for method in methods):
        raise TokenInvalid
    try:
        return Caller(
            user_id=UUID(claims["sub"]),
            session_id=UUID(claims["sid"]),
            client_id=client_id,
            scopes=frozenset(scope.split()),
            methods=frozenset(methods),
            expires_at=claims["exp"],
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
