"""Access tokens: signed here and nowhere else (RFC 9068, EdDSA of RFC 8037)."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import jwt

from services.auth.domain.key_ring import KeyRing
from services.auth.models.services import ServiceAccount
from services.auth.models.sessions import AccessToken, Session
from services.auth.models.users import User
from services.kit.access import ALGORITHM, TOKEN_TYPE
from services.kit.ids import uuid7

CLIENT_ID = "parley"
SERVICE_TOKEN_LIFE = timedelta(minutes=5)


class TokenIssuer:
    """Signs access tokens."""

    def __init__(
        self, keys: KeyRing, *, issuer: str, audience: str, life: timedelta, clock: Callable[[], datetime]
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._life = life
        self._clock = clock

    async def issue(self, user: User, session: Session) -> AccessToken:
        """A token for a user's session. It ends with the session at the latest."""
        claims = {
            "sub": str(user.id),
            "sid": str(session.id),
            "client_id": CLIENT_ID,
            "scope": "admin" if user.is_admin else "",
        }
        now = self._clock().replace(microsecond=0)
        return await self._sign(claims, now, min(now + self._life, session.expire_time.replace(microsecond=0)))

    async def issue_for_service(self, account: ServiceAccount) -> AccessToken:
        """A token for a service. Its session is the account: it ends when that is removed."""
        claims = {
            "sub": str(account.id),
            "sid": str(account.id),
            "client_id": account.name,
            "scope": "service",
            "methods": account.methods,
        }
        now = self._clock().replace(microsecond=0)
        return await self._sign(claims, now, now + SERVICE_TOKEN_LIFE)

    async def _sign(self, claims: dict[str, Any], now: datetime, expire_time: datetime) -> AccessToken:
        kid, private = await self._keys.current()
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "jti": str(uuid7()),
            "iat": int(now.timestamp()),
            "exp": int(expire_time.timestamp()),
            **claims,
        }
        token = jwt.encode(claims, private, ALGORITHM, headers={"typ": TOKEN_TYPE, "kid": kid})
        return AccessToken(token, expire_time)
