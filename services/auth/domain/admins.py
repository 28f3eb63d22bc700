"""Who is an administrator: decided by whoever works on the machine itself."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.accounts import email_key
from services.auth.domain.actor import OPERATOR
from services.auth.domain.audit import Audit
from services.auth.domain.password_rules import PasswordRules
from services.auth.domain.passwords import Passwords
from services.auth.domain.revocations import Revoker
from services.auth.errors import EmailTaken, UserDisabled, UserNotFound, UserPurging
from services.auth.jobs import SEND_WELCOME_EMAIL
from services.auth.models.audit import AuditType
from services.auth.models.users import User, UserState
from services.auth.repository.user_lists import UserLists
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.ids import uuid7
from services.kit.jobs import JobQueue


class Admins:
    """Makes users administrators and takes it back."""

    def __init__(
        self,
        db: Database,
        passwords: Passwords,
        rules: PasswordRules,
        revoker: Revoker,
        audit: Audit,
        jobs: JobQueue,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._rules = rules
        self._revoker = revoker
        self._audit = audit
        self._jobs = jobs
        self._clock = clock

    async def find(self, email: str) -> User | None:
        """The user with this address."""
        async with self._db.read() as tx:
            return await Users(tx).by_email(email_key(email))

    async def create(self, email: str, password: str, full_name: str) -> User:
        """Register an administrator. Raises EmailTaken, PasswordWeak."""
        await self._rules.check(password, email=email, full_name=full_name, field="password")
        now = self._clock()
        user = User(uuid7(), email, full_name, await self._passwords.hash(password), now, now, is_admin=True)
        async with self._db.transaction() as tx:
            if not await Users(tx).add(user, email_key(email)):
                raise EmailTaken
            await self._jobs.enqueue(tx, SEND_WELCOME_EMAIL, user_id=str(user.id))
            for what in (AuditType.USER_REGISTERED, AuditType.ADMIN_GRANTED):
                await self._audit.record(tx, what, **OPERATOR._asdict(), subject_id=user.id)
        return user

    async def grant(self, email: str) -> User:
        """Make a user an administrator; one who is stays so. Raises UserNotFound, UserDisabled, UserPurging.

        Its sessions go on; their tokens say so from the next refresh on.
        """
        async with self._db.transaction() as tx:
            user = await self._locked(tx, email)
            if user.state == UserState.PURGING:
                raise UserPurging
            if user.state != UserState.ACTIVE:
                raise UserDisabled
            return await self._set(tx, user, AuditType.ADMIN_GRANTED, is_admin=True)

    async def remove(self, email: str) -> User:
        """Let a user be no administrator any more, and end its sessions: their tokens say that it is one.

        Raises UserNotFound.
        """
        async with self._db.transaction() as tx:
            user = await self._locked(tx, email)
            if not user.is_admin:
                return user
            user = await self._set(tx, user, AuditType.ADMIN_REMOVED, is_admin=False)
            revocation = await self._revoker.end_sessions(tx, user.id)
        self._revoker.announce(revocation)
        return user

    async def count(self) -> int:
        """How many administrators there are who can sign in."""
        async with self._db.read() as tx:
            return await UserLists(tx).count_active_admins()

    async def _locked(self, tx: AsyncConnection, email: str) -> User:
        found = await Users(tx).by_email(email_key(email))
        user = None if found is None else await Users(tx).by_id_for_update(found.id)
        if user is None:
            raise UserNotFound
        return user

    async def _set(self, tx: AsyncConnection, user: User, what: AuditType, *, is_admin: bool) -> User:
        if user.is_admin == is_admin:
            return user
        await self._audit.record(tx, what, **OPERATOR._asdict(), subject_id=user.id)
        return await Users(tx).update(user.id, {"is_admin": is_admin}, self._clock())
