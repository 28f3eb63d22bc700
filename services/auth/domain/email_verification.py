"""Showing, with a code that was mailed, that the mail of an address is read."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.audit import Audit
from services.auth.domain.email_codes import EmailCodes
from services.auth.domain.live_sessions import require_live_session
from services.auth.domain.throttle import Throttle, ThrottleKind
from services.auth.errors import CodeInvalid, EmailAlreadyVerified
from services.auth.jobs import SEND_EMAIL_VERIFICATION
from services.auth.models.audit import AuditType
from services.auth.models.users import CodePurpose, User
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.finishing import finish
from services.kit.jobs import JobQueue
from services.kit.origin import Origin

_PURPOSE = CodePurpose.EMAIL_VERIFICATION


class EmailVerifications:
    """The use cases of a user whose address is to be verified. All of them raise SessionRevoked and UserNotFound.

    Attempts are counted by the user's id and not by its address, which strangers can use as well.
    """

    def __init__(
        self,
        db: Database,
        codes: EmailCodes,
        throttle: Throttle,
        audit: Audit,
        jobs: JobQueue,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._codes = codes
        self._throttle = throttle
        self._audit = audit
        self._jobs = jobs
        self._clock = clock

    async def request_email_verification(self, user_id: UUID, session_id: UUID, origin: Origin) -> None:
        """Enqueue the mail with the code. Raises EmailAlreadyVerified, TooManyAttempts."""
        if (await self._live(user_id, session_id)).email_verify_time is not None:
            raise EmailAlreadyVerified
        await self._throttle.begin(ThrottleKind.VERIFICATION_MAIL, account=str(user_id), origin=origin)
        async with self._db.transaction() as tx:
            await self._record(tx, AuditType.EMAIL_VERIFICATION_REQUESTED, user_id, session_id, origin)
            await self._jobs.enqueue(tx, SEND_EMAIL_VERIFICATION, user_id=str(user_id))

    async def verify_email(self, user_id: UUID, session_id: UUID, code: str, origin: Origin) -> User:
        """The user, whose address is verified. Raises CodeInvalid, TooManyAttempts, but not when it was so before."""
        user = await self._live(user_id, session_id)
        if user.email_verify_time is not None:
            return user
        return await finish(lambda _: self._verify(user_id, session_id, code, origin))

    async def _verify(self, user_id: UUID, session_id: UUID, code: str, origin: Origin) -> User:
        """Verify it, or take down the failure, also when the call is cancelled."""
        attempt = await self._throttle.begin(ThrottleKind.VERIFICATION, account=str(user_id), origin=origin)
        now = self._clock()
        async with self._db.transaction() as tx:
            locked = await Users(tx).by_id_for_update(user_id)
            if locked is not None and await self._codes.present(tx, user_id, _PURPOSE, code):
                await self._codes.use_up(tx, user_id, _PURPOSE, code)
                await attempt.succeeded(tx)
                await self._record(tx, AuditType.EMAIL_VERIFIED, user_id, session_id, origin)
                return await Users(tx).update(user_id, {"email_verify_time": locked.email_verify_time or now}, now)
            await attempt.failed(tx)
            await self._record(tx, AuditType.EMAIL_VERIFICATION_FAILED, user_id, session_id, origin)
        raise CodeInvalid

    async def _live(self, user_id: UUID, session_id: UUID) -> User:
        async with self._db.read() as tx:
            return await require_live_session(tx, user_id, session_id, self._clock())

    async def _record(
        self, tx: AsyncConnection, kind: AuditType, user_id: UUID, session_id: UUID, origin: Origin
    ) -> None:
        await self._audit.record(tx, kind, origin=origin, actor_id=user_id, subject_id=user_id, session_id=session_id)
