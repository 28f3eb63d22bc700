"""Sessions: signing in, and exchanging refresh tokens."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.accounts import email_key
from services.auth.domain.audit import Audit
from services.auth.domain.passwords import Passwords
from services.auth.domain.revocations import Revoker
from services.auth.domain.secret import Secret, new_secret, secret_hash
from services.auth.domain.signing import TokenIssuer
from services.auth.domain.throttle import Attempt, Throttle, ThrottleKind
from services.auth.errors import CredentialsInvalid, RefreshTokenInvalid, RefreshTokenReused, UserDisabled
from services.auth.models.audit import AuditType
from services.auth.models.sessions import RefreshToken, Revocation, Session, SignedIn
from services.auth.models.users import User, UserState
from services.auth.repository.sessions import Sessions
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.errors import Overloaded, SessionRevoked
from services.kit.finishing import Asker, finish
from services.kit.ids import uuid7
from services.kit.origin import Origin

REPEAT_WINDOW = timedelta(seconds=10)
MOST_SESSIONS = 100
"""Of one user."""


@dataclass(frozen=True, slots=True)
class SessionLife:
    """How long a session lives."""

    idle: timedelta
    """Without a refresh."""
    longest: timedelta
    """With any number of them."""


class SignIns:
    """The use cases that start a session and keep it."""

    def __init__(
        self,
        db: Database,
        passwords: Passwords,
        throttle: Throttle,
        issuer: TokenIssuer,
        secret: Secret,
        revoker: Revoker,
        audit: Audit,
        *,
        life: SessionLife,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._throttle = throttle
        self._issuer = issuer
        self._secret = secret
        self._revoker = revoker
        self._audit = audit
        self._life = life
        self._clock = clock

    async def login(self, email: str, password: str, device_label: str, origin: Origin) -> tuple[SignedIn, User]:
        """Start a session. Raises CredentialsInvalid, UserDisabled, TooManyAttempts, PasswordLocked, Overloaded.

        An address that is not known, and a password that is wrong, cost the same: the same statements and one hash.
        A failure is taken down also when the call is cancelled; a session is not started then.
        """
        async with self._passwords.turn():
            return await finish(lambda asker: self._login(email, password, device_label, origin, asker))

    async def refresh_token(self, refresh_token: str, request_id: UUID | None, origin: Origin) -> SignedIn:
        """Exchange a refresh token for its successor. Raises RefreshTokenInvalid, RefreshTokenReused, SessionRevoked.

        A repeat answers with the same successor: within 10 s any repeat, later one with the same `request_id` as
        long as the successor is unused. What else is exchanged a second time has been copied: the session ends.
        """
        now = self._clock()
        presented, successor = secret_hash(refresh_token), self._secret.successor(refresh_token)
        async with self._db.transaction() as tx:
            found = await Sessions(tx).lock_by_token(presented)
            if found is None:
                raise RefreshTokenInvalid
            session, token = found
            user = await Users(tx).by_id(session.user_id)
            assert user is not None  # its sessions go with it
            if session.revoke_time is not None or user.state != UserState.ACTIVE:
                raise SessionRevoked
            if session.expire_time <= now:
                raise RefreshTokenInvalid
            is_new = token.exchange_time is None
            is_good = is_new or await self._is_repeat(tx, token, request_id, successor, now)
            if is_new:
                await Sessions(tx).exchange(presented, request_id, now)
                await Sessions(tx).add_token(secret_hash(successor), session.id, now)
                expire_time = min(now + self._life.idle, session.last_expire_time)
                session = await Sessions(tx).use(session.id, expire_time, origin, now)
            ended = None if is_good else await self._end_copied(tx, session, origin)
        self._revoker.announce(ended)
        if not is_good:
            raise RefreshTokenReused
        return SignedIn(await self._issuer.issue(user, session), successor, session)

    async def _login(
        self, email: str, password: str, device_label: str, origin: Origin, asker: Asker
    ) -> tuple[SignedIn, User]:
        attempt = await self._throttle.begin(ThrottleKind.SIGN_IN, account=email_key(email), origin=origin)
        async with self._db.read() as tx:
            found = await Users(tx).by_email(email_key(email))
        while True:
            user = await self._verified(found, password, attempt, origin)
            if asker.is_gone:
                async with self._db.transaction() as tx:
                    await attempt.succeeded(tx)
                raise asyncio.CancelledError
            new_hash = await self._upgraded(user.password_hash, password)
            async with self._db.transaction() as tx:
                # If it is not as it was verified, its password was changed, or it was disabled: then it is verified
                # again, so that no session is left of what was before.
                found = await Users(tx).by_id_for_update(user.id)
                started = None
                if found == user:
                    await attempt.succeeded(tx)
                    started = await self._start(tx, user, new_hash, device_label, origin)
            if started is not None:
                session, refresh_token, ended = started
                self._revoker.announce(ended)
                return SignedIn(await self._issuer.issue(user, session), refresh_token, session), user

    async def _verified(self, user: User | None, password: str, attempt: Attempt, origin: Origin) -> User:
        """The user, if it is one, the password is right, and it may sign in. What fails is taken down."""
        try:
            matches = await self._passwords.matches(password, user.password_hash if user else None)
        except Overloaded:
            async with self._db.transaction() as tx:
                await attempt.withdrawn(tx)
            raise
        failure: CredentialsInvalid | UserDisabled = CredentialsInvalid()
        if user is not None and matches:
            if user.state == UserState.ACTIVE:
                return user
            failure = UserDisabled()
        async with self._db.transaction() as tx:
            # A right password is no guess, whatever else is wrong.
            await (attempt.succeeded(tx) if matches else attempt.failed(tx))
            subject_id = user.id if user else None
            await self._audit.record(
                tx, AuditType.SIGN_IN_FAILED, origin=origin, subject_id=subject_id, reason=failure.reason
            )
        raise failure

    async def _upgraded(self, stored: str, password: str) -> str | None:
        """A new hash of a password whose hash is of older parameters, unless there is too much to do."""
        if self._passwords.is_outdated(stored):
            with suppress(Overloaded):
                return await self._passwords.hash(password)
        return None

    async def _start(
        self, tx: AsyncConnection, user: User, new_hash: str | None, device_label: str, origin: Origin
    ) -> tuple[Session, str, Revocation | None]:
        """A session with its refresh token, and what had to end for it. The user is locked."""
        now, refresh_token = self._clock(), new_secret()
        last_expire_time = now + self._life.longest
        expire_time = min(now + self._life.idle, last_expire_time)
        session = Session(
            uuid7(), user.id, device_label, now, expire_time, last_expire_time, now, *origin, revoke_time=None
        )
        if new_hash is not None:
            await Users(tx).set_password_hash(user.id, new_hash)
        surplus = await Sessions(tx).end_least_used(user.id, now, kept=MOST_SESSIONS - 1)
        await Sessions(tx).add(session)
        await Sessions(tx).add_token(secret_hash(refresh_token), session.id, now)
        await self._audit.record(
            tx, AuditType.SIGNED_IN, origin=origin, actor_id=user.id, subject_id=user.id, session_id=session.id
        )
        return session, refresh_token, await self._revoker.revoke(tx, surplus, user.id) if surplus else None

    async def _is_repeat(
        self, tx: AsyncConnection, token: RefreshToken, request_id: UUID | None, successor: str, now: datetime
    ) -> bool:
        if token.exchange_time is not None and now - token.exchange_time <= REPEAT_WINDOW:
            return True
        if request_id is None or request_id != token.request_id:
            return False
        return not await Sessions(tx).is_exchanged(secret_hash(successor))

    async def _end_copied(self, tx: AsyncConnection, session: Session, origin: Origin) -> Revocation | None:
        await self._audit.record(
            tx, AuditType.REFRESH_TOKEN_REUSED, origin=origin, subject_id=session.user_id, session_id=session.id
        )
        return await self._revoker.end_sessions(tx, session.user_id, only=session.id)
