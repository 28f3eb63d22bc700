"""Sessions: signing in, exchanging refresh tokens, signing out."""

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.accounts import email_key
from services.auth.domain.passwords import Passwords
from services.auth.domain.secret import Secret, new_refresh_token, token_hash
from services.auth.domain.signing import TokenIssuer
from services.auth.errors import CredentialsInvalid, RefreshTokenInvalid, RefreshTokenReused
from services.auth.models.sessions import RefreshToken, Session, SignedIn
from services.auth.models.users import User
from services.auth.repository.sessions import Sessions
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.errors import SessionRevoked
from services.kit.ids import uuid7

log = structlog.get_logger()

REPEAT_WINDOW = timedelta(seconds=10)


class SignIns:
    """The use cases around a session."""

    def __init__(
        self,
        db: Database,
        passwords: Passwords,
        issuer: TokenIssuer,
        secret: Secret,
        *,
        session_life: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._issuer = issuer
        self._secret = secret
        self._life = session_life
        self._clock = clock

    async def login(self, email: str, password: str, device_label: str) -> tuple[SignedIn, User]:
        """Start a session. Raises CredentialsInvalid, after the same time whether the address is known or not."""
        async with self._db.read() as tx:
            user = await Users(tx).by_email(email_key(email))
        matches = await self._passwords.matches(password, user.password_hash if user else None)
        if user is None or not matches:
            raise CredentialsInvalid
        now = self._clock()
        session = Session(uuid7(), user.id, device_label, now, now + self._life, now + self._life, now, "", "", None)
        refresh_token = new_refresh_token()
        async with self._db.transaction() as tx:
            await Sessions(tx).add(session)
            await Sessions(tx).add_token(token_hash(refresh_token), session.id, now)
        return SignedIn(await self._issuer.issue(user, session), refresh_token, session), user

    async def refresh_token(self, refresh_token: str, request_id: UUID | None) -> SignedIn:
        """Exchange a refresh token for its successor. Raises RefreshTokenInvalid, RefreshTokenReused, SessionRevoked.

        A repeat answers with the same successor: within 10 s any repeat, later one with the same `request_id` as
        long as the successor is unused. What else is exchanged a second time has been copied: the session ends.
        """
        now = self._clock()
        presented, successor = token_hash(refresh_token), self._secret.successor(refresh_token)
        async with self._db.transaction() as tx:
            found = await Sessions(tx).lock_by_token(presented)
            if found is None:
                raise RefreshTokenInvalid
            session, token = found
            user = await Users(tx).by_id(session.user_id)
            assert user is not None  # its sessions go with it
            if session.revoke_time is not None:
                raise SessionRevoked
            if session.expire_time <= now:
                raise RefreshTokenInvalid
            if token.exchange_time is None:
                await Sessions(tx).exchange(presented, request_id, now)
                await Sessions(tx).add_token(token_hash(successor), session.id, now)
                await Sessions(tx).extend(session.id, now + self._life)
                session = session._replace(expire_time=now + self._life)
                reused = False
            else:
                reused = not await self._is_repeat(tx, token, request_id, successor, now)
                if reused:
                    await Sessions(tx).end(session.user_id, now, only=session.id)
        if reused:
            log.warning(
                "refresh token reused, session ended",
                session_id=str(session.id),
                user_id=str(session.user_id),
            )
            raise RefreshTokenReused
        return SignedIn(await self._issuer.issue(user, session), successor, session)

    async def logout(self, user_id: UUID, session_id: UUID) -> None:
        """End a session. Raises SessionRevoked when it had ended."""
        async with self._db.transaction() as tx:
            if not await Sessions(tx).end(user_id, self._clock(), only=session_id):
                raise SessionRevoked

    async def _is_repeat(
        self, tx: AsyncConnection, token: RefreshToken, request_id: UUID | None, successor: str, now: datetime
    ) -> bool:
        if token.exchange_time is not None and now - token.exchange_time <= REPEAT_WINDOW:
            return True
        if request_id is None or request_id != token.request_id:
            return False
        return not await Sessions(tx).is_exchanged(token_hash(successor))
