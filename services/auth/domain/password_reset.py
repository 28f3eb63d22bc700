"""Setting a new password with a code that was mailed."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.accounts import email_key
from services.auth.domain.audit import Audit
from services.auth.domain.email_codes import EmailCodes
from services.auth.domain.password_notices import PasswordNotices
from services.auth.domain.password_rules import PasswordRules
from services.auth.domain.passwords import Passwords
from services.auth.domain.revocations import Revoker
from services.auth.domain.throttle import Attempt, Throttle, ThrottleKind
from services.auth.errors import CodeInvalid, PasswordWeak
from services.auth.jobs import SEND_PASSWORD_RESET
from services.auth.models.audit import AuditType
from services.auth.models.sessions import Revocation
from services.auth.models.users import CodePurpose, User, UserState
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.errors import Overloaded
from services.kit.finishing import finish
from services.kit.jobs import JobQueue
from services.kit.origin import Origin

_PURPOSE = CodePurpose.PASSWORD_RESET


class PasswordResets:
    """The use cases of somebody who has forgotten a password.

    Nothing here tells whether an address is known: the same statements are run for one that is not.
    """

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
        jobs: JobQueue,
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
        self._jobs = jobs
        self._clock = clock

    async def request_password_reset(self, email: str, origin: Origin) -> None:
        """Enqueue the mail with the code; its job finds out whether to mail anybody. Raises TooManyAttempts."""
        await self._throttle.begin(ThrottleKind.MAIL, account=email_key(email), origin=origin)
        async with self._db.transaction() as tx:
            user = await Users(tx).by_email(email_key(email))
            await self._audit.record(
                tx, AuditType.PASSWORD_RESET_REQUESTED, origin=origin, subject_id=user.id if user else None
            )
            await self._jobs.enqueue(tx, SEND_PASSWORD_RESET, email=email)

    async def reset_password(self, email: str, code: str, new_password: str, origin: Origin) -> None:
        """Set a new password and end all sessions of the user, whose address counts as verified from then on.

        Raises CodeInvalid, PasswordWeak, TooManyAttempts, Overloaded. Only whoever has the right code learns that a
        password is weak, as that depends on the user's name; the code stays good then. What was begun is done, or taken
        down as a failure, also when the call is cancelled.
        """
        self._revoker.announce(await finish(lambda _: self._reset(email, code, new_password, origin)))

    async def _reset(self, email: str, code: str, new_password: str, origin: Origin) -> Revocation | None:
        attempt = await self._throttle.begin(ThrottleKind.RESET, origin=origin)
        user = await self._present(email, code, attempt, origin)
        try:
            async with self._passwords.turn():
                await self._rules.check(new_password, email=user.email, full_name=user.full_name)
                password_hash = await self._passwords.hash(new_password)
        except (PasswordWeak, Overloaded):
            async with self._db.transaction() as tx:
                await self._codes.take_back(tx, user.id, _PURPOSE, code)
                await attempt.withdrawn(tx)
            raise
        try:
            return await self._set_password(user, code, password_hash, attempt, origin)
        except CodeInvalid:
            async with self._db.transaction() as tx:
                await self._take_down_failure(tx, user, attempt, origin)
            raise

    async def _present(self, email: str, code: str, attempt: Attempt, origin: Origin) -> User:
        """The user whose code it is. A try is counted, and a failure is taken down, before CodeInvalid is raised."""
        async with self._db.transaction() as tx:
            user = await Users(tx).by_email(email_key(email))
            is_right = await self._codes.present(tx, user.id if user else None, _PURPOSE, code)
            if user is not None and user.state == UserState.ACTIVE and is_right:
                return user
            await self._take_down_failure(tx, user, attempt, origin)
        raise CodeInvalid

    async def _set_password(
        self, user: User, code: str, password_hash: str, attempt: Attempt, origin: Origin
    ) -> Revocation | None:
        """Set it in one transaction with all that goes with it. Raises CodeInvalid."""
        now = self._clock()
        async with self._db.transaction() as tx:
            # While the password was hashed, somebody else may have used the code, or have disabled the user.
            current = await Users(tx).by_id_for_update(user.id)
            if current is None or current.state != UserState.ACTIVE:
                raise CodeInvalid
            if not await self._codes.use_up(tx, user.id, _PURPOSE, code):
                raise CodeInvalid
            changes = {"password_hash": password_hash, "email_verify_time": current.email_verify_time or now}
            await Users(tx).update(user.id, changes, now)
            revocation = await self._revoker.end_sessions(tx, user.id)
            await attempt.succeeded(tx)
            await self._throttle.clear(tx, email=email_key(user.email), user_id=user.id)
            await self._audit.record(tx, AuditType.PASSWORD_RESET, origin=origin, subject_id=user.id)
            await self._notices.enqueue(tx, user.id, now)
        return revocation

    async def _take_down_failure(
        self, tx: AsyncConnection, user: User | None, attempt: Attempt, origin: Origin
    ) -> None:
        await attempt.failed(tx)
        subject_id = user.id if user else None
        await self._audit.record(tx, AuditType.PASSWORD_RESET_FAILED, origin=origin, subject_id=subject_id)
