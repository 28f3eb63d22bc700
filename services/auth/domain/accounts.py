"""Users: registering, and who the caller is."""

from collections.abc import Callable, Mapping
from datetime import datetime
from uuid import UUID

from services.auth.domain.audit import Audit
from services.auth.domain.live_sessions import require_live_session
from services.auth.domain.password_rules import PasswordRules
from services.auth.domain.passwords import Passwords
from services.auth.domain.throttle import Throttle, ThrottleKind
from services.auth.errors import EmailTaken, EtagMismatch
from services.auth.jobs import SEND_WELCOME_EMAIL
from services.auth.models.audit import AuditType
from services.auth.models.users import User
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.ids import uuid7
from services.kit.jobs import JobQueue
from services.kit.origin import Origin


class Accounts:
    """The use cases around a user."""

    def __init__(
        self,
        db: Database,
        rules: PasswordRules,
        passwords: Passwords,
        throttle: Throttle,
        audit: Audit,
        jobs: JobQueue,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._rules = rules
        self._passwords = passwords
        self._throttle = throttle
        self._audit = audit
        self._jobs = jobs
        self._clock = clock

    async def register(self, email: str, password: str, full_name: str, origin: Origin) -> User:
        """Store a new user and enqueue the welcome mail, both or neither.

        Raises EmailTaken, PasswordWeak, TooManyAttempts, Overloaded.
        """
        async with self._passwords.turn(of_stranger=True):
            await self._throttle.begin(ThrottleKind.REGISTER, origin=origin)
            async with self._db.read() as tx:
                if await Users(tx).by_email(email_key(email)) is not None:
                    raise EmailTaken  # Before the password is hashed: it is the expensive part.
            await self._rules.check(password, email=email, full_name=full_name, field="password")
            password_hash = await self._passwords.hash(password)
        now = self._clock()
        user = User(uuid7(), email, full_name, password_hash, now, now)
        async with self._db.transaction() as tx:
            if not await Users(tx).add(user, email_key(email)):
                raise EmailTaken
            await self._audit.record(tx, AuditType.USER_REGISTERED, origin=origin, subject_id=user.id)
            await self._jobs.enqueue(tx, SEND_WELCOME_EMAIL, user_id=str(user.id))
        return user

    async def get_current_user(self, user_id: UUID, session_id: UUID) -> User:
        """The user of a session that lives. Raises SessionRevoked, UserNotFound."""
        async with self._db.read() as tx:
            return await require_live_session(tx, user_id, session_id, self._clock())

    async def update_current_user(
        self, user_id: UUID, session_id: UUID, changes: Mapping[str, str], etag: str, origin: Origin
    ) -> User:
        """Change the user and return it as it is then: a new revision, unless every field has its new value already.

        Raises EtagMismatch, SessionRevoked, UserNotFound.
        """
        now = self._clock()
        async with self._db.transaction() as tx:
            await Users(tx).by_id_for_update(user_id)
            user = await require_live_session(tx, user_id, session_id, now)
            if etag and etag != user.etag:
                raise EtagMismatch
            different = {name: value for name, value in changes.items() if value != getattr(user, name)}
            if not different:
                return user
            await self._audit.record(
                tx,
                AuditType.USER_UPDATED,
                origin=origin,
                actor_id=user_id,
                subject_id=user_id,
                session_id=session_id,
                fields=", ".join(different),
            )
            return await Users(tx).update(user_id, different, now)

    async def send_welcome_email(self, user_id: UUID, session_id: UUID, origin: Origin) -> None:
        """Enqueue the welcome mail once more, unless one is waiting.

        Raises SessionRevoked, UserNotFound, TooManyAttempts: the address may be somebody else's.
        """
        user = await self.get_current_user(user_id, session_id)
        await self._throttle.begin(ThrottleKind.WELCOME_MAIL, account=str(user_id), origin=origin)
        async with self._db.transaction() as tx:
            await self._jobs.enqueue(
                tx, SEND_WELCOME_EMAIL, once=f"{SEND_WELCOME_EMAIL}:{user.id}", user_id=str(user.id)
            )


def email_key(email: str) -> str:
    """What makes two addresses the same: everything but upper and lower case."""
    return email.casefold()
