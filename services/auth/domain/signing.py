"""Access tokens: signed here and nowhere else (RFC 9068, EdDSA of RFC 8037)."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.auth.domain.secret import Secret
from services.auth.models.keys import PublicKey, SigningKey
from services.auth.models.sessions import AccessToken, Session
from services.auth.models.users import User
from services.auth.repository.signing_keys import SigningKeyRows
from services.kit import base64url
from services.kit.access import ALGORITHM, TOKEN_TYPE
from services.kit.database import Database
from services.kit.ids import uuid7

CLIENT_ID = "parley"
JWKS_MAX_AGE = timedelta(minutes=5)


class SigningKeys:
    """The keys in the database. The first is made when the first token is asked for."""

    def __init__(self, db: Database, secret: Secret, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._secret = secret
        self._clock = clock
        self._keys: list[tuple[PublicKey, Ed25519PrivateKey]] = []
        self._lock = asyncio.Lock()

    async def current(self) -> tuple[PublicKey, Ed25519PrivateKey]:
        """The key to sign with: the newest."""
        await self._load()
        return self._keys[0]

    async def public(self) -> list[PublicKey]:
        """Every key whose signatures are valid."""
        await self._load()
        return [public for public, _ in self._keys]

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this `kid`: this service is its own source of keys."""
        await self._load()
        return next((private.public_key() for public, private in self._keys if public.kid == kid), None)

    async def _load(self) -> None:
        if self._keys:
            return
        async with self._lock:
            if self._keys:
                return
            async with self._db.transaction() as tx:
                rows = SigningKeyRows(tx)
                stored = await rows.all()
                if not stored:
                    await rows.lock_first()
                    stored = await rows.all() or [await self._make(rows)]
            self._keys = [self._opened(row) for row in stored]

    async def _make(self, rows: SigningKeyRows) -> SigningKey:
        private = Ed25519PrivateKey.generate()
        raw = private.public_key().public_bytes_raw()
        kid = thumbprint(raw)
        now = self._clock()
        key = SigningKey(kid, raw, self._secret.encrypt(private.private_bytes_raw(), kid), now, now, None, None)
        await rows.add(key)
        return key

    def _opened(self, row: SigningKey) -> tuple[PublicKey, Ed25519PrivateKey]:
        private = Ed25519PrivateKey.from_private_bytes(self._secret.decrypt(row.private_key, row.kid))
        return PublicKey(row.kid, row.public_key), private


class TokenIssuer:
    """Signs access tokens."""

    def __init__(
        self, keys: SigningKeys, *, issuer: str, audience: str, life: timedelta, clock: Callable[[], datetime]
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._life = life
        self._clock = clock

    async def issue(self, user: User, session: Session) -> AccessToken:
        """A token for a user's session. It ends with the session at the latest."""
        public, private = await self._keys.current()
        now = self._clock().replace(microsecond=0)
        expire_time = min(now + self._life, session.expire_time.replace(microsecond=0))
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(user.id),
            "sid": str(session.id),
            "client_id": CLIENT_ID,
            "jti": str(uuid7()),
            "iat": int(now.timestamp()),
            "exp": int(expire_time.timestamp()),
            "scope": "admin" if user.is_admin else "",
        }
        token = jwt.encode(claims, private, ALGORITHM, headers={"typ": TOKEN_TYPE, "kid": public.kid})
        return AccessToken(token, expire_time)


def thumbprint(public_key: bytes) -> str:
    """The RFC 7638 thumbprint of an Ed25519 key: SHA-256 over its required members in lexical order, base64url."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": base64url.encode(public_key)}
    return base64url.encode(sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest())
