"""Removing a user for good: auth's step of `services.kit.purge`, which is the last, and what sets the chain going."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import structlog

from services.auth.domain.accounts import email_key
from services.auth.domain.audit import Audit
from services.auth.domain.throttle import Throttle
from services.auth.models.audit import AuditType
from services.auth.repository.user_lists import StillReferredTo, UserLists
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.jobs import JobQueue
from services.kit.purge import begin_purge, without_chain

log = structlog.get_logger()

SESSIONS_AT_A_TIME = 50
USERS_AT_A_TIME = 100
MOST_RESUMED = 1_000


class Purge:
    """Removes users. It can be broken off and repeated anywhere, and two may do it at once."""

    def __init__(
        self, db: Database, jobs: JobQueue, throttle: Throttle, audit: Audit, clock: Callable[[], datetime]
    ) -> None:
        self._db = db
        self._jobs = jobs
        self._throttle = throttle
        self._audit = audit
        self._clock = clock

    async def purge_user(self, user_id: str) -> None:
        """Remove the user. If another service has something of it again, the chain begins once more."""
        user = UUID(user_id)
        if not await self._is_purging(user):
            log.info("no user to purge", user_id=user_id)
            return
        while await self._remove_some_sessions(user):
            pass
        try:
            async with self._db.transaction() as tx:
                found = await Users(tx).by_id_for_update(user)
                if found is None:
                    return
                await UserLists(tx).delete_user(user)
                await self._throttle.forget(tx, email=email_key(found.email), user_id=user)
                await self._audit.record(tx, AuditType.USER_PURGED, subject_id=user)
        except StillReferredTo:
            log.info("purge begins again, as something was written for the user meanwhile", user_id=user_id)
            async with self._db.transaction() as tx:
                await begin_purge(self._jobs, tx, user, at_once=False)

    async def purge_due_users(self) -> None:
        """Begin to remove the users who were deleted long enough ago, and go on with those whose chain got lost."""
        while await self._begin_some() == USERS_AT_A_TIME:
            pass
        async with self._db.transaction() as tx:
            purging = await UserLists(tx).purging(self._clock(), MOST_RESUMED)
            for user_id in await without_chain(self._jobs, tx, purging):
                log.warning("purge taken up again", user_id=str(user_id))
                await begin_purge(self._jobs, tx, user_id, at_once=True)

    async def _begin_some(self) -> int:
        now = self._clock()
        async with self._db.transaction() as tx:
            due = await UserLists(tx).lock_due(now, USERS_AT_A_TIME)
            for user_id in due:
                await Users(tx).update(user_id, {"purging": True}, now)
                await self._audit.record(tx, AuditType.USER_PURGE_REQUESTED, subject_id=user_id)
                await begin_purge(self._jobs, tx, user_id, at_once=True)
        return len(due)

    async def _is_purging(self, user_id: UUID) -> bool:
        async with self._db.read() as tx:
            user = await Users(tx).by_id(user_id)
        return user is not None and user.purging

    async def _remove_some_sessions(self, user_id: UUID) -> int:
        async with self._db.transaction() as tx:
            return await UserLists(tx).delete_sessions(user_id, SESSIONS_AT_A_TIME)
