"""Changing a password that one knows."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.audit import Audit
from services.auth.domain.email_codes import EmailCodes
from services.auth.domain.live_sessions import require_live_session
from services.auth.domain.password_notices import PasswordNotices
from services.auth.domain.password_rules import PasswordRules
from services.auth.domain.passwords import Passwords
from services.auth.domain.revocations import Revoker
from services.auth.domain.throttle import Throttle, ThrottleKind
from services.auth.errors import PasswordWeak, PasswordWrong
from services.auth.models.audit import AuditType
from services.auth.models.sessions import Revocation
from services.auth.models.users import CodePurpose, User
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.errors import FieldViolation, Overloaded
from services.kit.finishing import finish
from services.kit.origin import Origin


class PasswordChanges:
    """The use case of a user who sets a new password."""

    def __init__(
        self,
        db: Database,
        codes: EmailCodes,
        rules: PasswordRules,
        passwords: Passwords,
        throttle: Throttle,
        revoker: Revoker,
        audit: Audit,
        notices: PasswordNotices,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._codes = codes
        self._rules = rules
        self._passwords = passwords
        self._throttle = throttle
        self._revoker = revoker
        self._audit = audit
        self._notices = notices
        self._clock = clock

    async def change_password(
        self, user_id: UUID, session_id: UUID, current_password: str, new_password: str, origin: Origin
    ) -> None:
        """Set a new password, end the user's other sessions, void a code to reset it, and enqueue a mail that tells.

        What was begun is done, or taken down as a failure, also when the call is cancelled.

        Raises PasswordWrong, PasswordWeak, TooManyAttempts, PasswordLocked, SessionRevoked, UserNotFound, Overloaded.
        """
        async with self._db.read() as tx:
            user = await require_live_session(tx, user_id, session_id, self._clock())
        async with self._passwords.turn():
            revocation = await finish(lambda _: self._change(user, session_id, current_password, new_password, origin))
        self._revoker.announce(revocation)

    async def _change(
        self, user: User, session_id: UUID, current_password: str, new_password: str, origin: Origin
    ) -> Revocation | None:
        """Change it, or take down the failure."""
        attempt = await self._throttle.begin(ThrottleKind.PASSWORD_CHANGE, account=str(user.id), origin=origin)
        try:
            is_right = await self._passwords.matches(current_password, user.password_hash)
            new_hash = await self._hash_of_good(new_password, user) if is_right else ""
        except (PasswordWeak, Overloaded):
            async with self._db.transaction() as tx:
                await attempt.withdrawn(tx)
            raise
        async with self._db.transaction() as tx:
            # Whoever changed it while this one was verified was first: then the current one is another.
            current = await Users(tx).by_id_for_update(user.id)
            if is_right and current is not None and current.password_hash == user.password_hash:
                await require_live_session(tx, user.id, session_id, self._clock())
                await attempt.succeeded(tx)
                return await self._set(tx, user, new_hash, session_id, origin)
            await attempt.failed(tx)
            await self._record(tx, AuditType.PASSWORD_CHANGE_FAILED, user.id, session_id, origin)
        raise PasswordWrong(fields=[FieldViolation("current_password", "is another one")])

    async def _hash_of_good(self, new_password: str, user: User) -> str:
        await self._rules.check(new_password, email=user.email, full_name=user.full_name)
        return await self._passwords.hash(new_password)

    async def _set(
        self, tx: AsyncConnection, user: User, new_hash: str, session_id: UUID, origin: Origin
    ) -> Revocation | None:
        now = self._clock()
        await Users(tx).update(user.id, {"password_hash": new_hash}, now)
        await self._codes.void(tx, user.id, CodePurpose.PASSWORD_RESET)
        await self._record(tx, AuditType.PASSWORD_CHANGED, user.id, session_id, origin)
        await self._notices.enqueue(tx, user.id, now)
        return await self._revoker.end_sessions(tx, user.id, but=session_id)

    async def _record(
        self, tx: AsyncConnection, kind: AuditType, user_id: UUID, session_id: UUID, origin: Origin
    ) -> None:
        await self._audit.record(tx, kind, origin=origin, actor_id=user_id, subject_id=user_id, session_id=session_id)
