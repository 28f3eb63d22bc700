"""What administrators do with users: look at them, keep them out, let them back in, remove them."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.actor import Actor
from services.auth.domain.admin_access import require_admin
from services.auth.domain.audit import Audit
from services.auth.domain.revocations import Revoker
from services.auth.errors import OwnAccount, UserNotDeleted, UserNotFound, UserPurging
from services.auth.models.audit import AuditType
from services.auth.models.users import User
from services.auth.repository.user_lists import FILTER, UserLists
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.jobs import JobQueue
from services.kit.pages import Page, PageRequest
from services.kit.purge import begin_purge


class Administration:
    """The users, for administrators. Everything here raises SessionRevoked or AccessDenied for who is none any more.

    Whoever changes a user holds the rows of both, so that of two administrators who keep each other out only one can.
    """

    def __init__(
        self,
        db: Database,
        revoker: Revoker,
        audit: Audit,
        jobs: JobQueue,
        *,
        deleted_kept: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._revoker = revoker
        self._audit = audit
        self._jobs = jobs
        self._deleted_kept = deleted_kept
        self._clock = clock

    async def list_users(self, actor: Actor, page: PageRequest, written_filter: str) -> Page[User]:
        """A page of the users that a filter lets through, newest first. Raises FilterInvalid."""
        conditions = FILTER.read(written_filter)
        async with self._db.read() as tx:
            await require_admin(tx, actor, self._clock())
            return await UserLists(tx).list_newest_first(page, conditions)

    async def get_user(self, actor: Actor, user_id: UUID) -> User:
        """One user, whatever its state. Raises UserNotFound."""
        async with self._db.read() as tx:
            await require_admin(tx, actor, self._clock())
            return _found(await Users(tx).by_id(user_id))

    async def disable_user(self, actor: Actor, user_id: UUID) -> User:
        """End the user's sessions and take no more. Raises UserNotFound, UserPurging, OwnAccount."""
        async with self._db.transaction() as tx:
            user = await self._lock(tx, actor, user_id, may_be_own=False)
            if _staying(user).disable_time is not None:
                return user
            user = await self._change(tx, actor, user, AuditType.USER_DISABLED, {"disable_time": self._clock()})
            revocation = await self._revoker.end_sessions(tx, user_id)
        self._revoker.announce(revocation)
        return user

    async def enable_user(self, actor: Actor, user_id: UUID) -> User:
        """Let a disabled user sign in again. Raises UserNotFound, UserPurging."""
        async with self._db.transaction() as tx:
            user = await self._lock(tx, actor, user_id)
            if _staying(user).disable_time is None:
                return user
            return await self._change(tx, actor, user, AuditType.USER_ENABLED, {"disable_time": None})

    async def delete_user(self, actor: Actor, user_id: UUID) -> User:
        """End the user's sessions and mark it as deleted; after a while it is removed for good.

        Raises UserNotFound, UserPurging, OwnAccount.
        """
        now = self._clock()
        async with self._db.transaction() as tx:
            user = await self._lock(tx, actor, user_id, may_be_own=False)
            if _staying(user).delete_time is not None:
                return user
            times = {"delete_time": now, "purge_time": now + self._deleted_kept}
            user = await self._change(tx, actor, user, AuditType.USER_DELETED, times)
            revocation = await self._revoker.end_sessions(tx, user_id)
        self._revoker.announce(revocation)
        return user

    async def undelete_user(self, actor: Actor, user_id: UUID) -> User:
        """Take back a deletion. Raises UserNotFound, UserNotDeleted, UserPurging."""
        async with self._db.transaction() as tx:
            user = await self._lock(tx, actor, user_id)
            if _staying(user).delete_time is None:
                raise UserNotDeleted
            times = {"delete_time": None, "purge_time": None}
            return await self._change(tx, actor, user, AuditType.USER_UNDELETED, times)

    async def purge_user(self, actor: Actor, user_id: UUID) -> User:
        """End the user's sessions and have it removed with all that it owns. Raises UserNotFound, OwnAccount."""
        now = self._clock()
        async with self._db.transaction() as tx:
            user = await self._lock(tx, actor, user_id, may_be_own=False)
            if user.purging:
                return user
            fate = {"purging": True, "delete_time": user.delete_time or now, "purge_time": now}
            user = await self._change(tx, actor, user, AuditType.USER_PURGE_REQUESTED, fate)
            revocation = await self._revoker.end_sessions(tx, user_id)
            await begin_purge(self._jobs, tx, user_id, at_once=False)
        self._revoker.announce(revocation)
        return user

    async def _lock(self, tx: AsyncConnection, actor: Actor, user_id: UUID, *, may_be_own: bool = True) -> User:
        """The user, who stays as it is until the transaction ends, as does the actor, who is an administrator."""
        await UserLists(tx).lock([user_id, *([] if actor.actor_id is None else [actor.actor_id])])
        await require_admin(tx, actor, self._clock())
        if actor.actor_id == user_id and not may_be_own:
            raise OwnAccount
        return _found(await Users(tx).by_id(user_id))

    async def _change(
        self, tx: AsyncConnection, actor: Actor, user: User, what: AuditType, columns: Mapping[str, Any]
    ) -> User:
        await self._audit.record(tx, what, **actor._asdict(), subject_id=user.id)
        return await Users(tx).update(user.id, columns, self._clock())


def _found(user: User | None) -> User:
    if user is None:
        raise UserNotFound
    return user


def _staying(user: User) -> User:
    if user.purging:
        raise UserPurging
    return user
