"""Users, as administrators and the worker see them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, case, delete, exc, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.sessions import SessionTable
from services.auth.models.users import User, UserState, UserTable
from services.kit.filters import Filter, boolean, caseless, choice, moment
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest

# As User.state.
_STATE = case(
    (UserTable.purging, UserState.PURGING),
    (UserTable.delete_time.is_not(None), UserState.DELETED),
    (UserTable.disable_time.is_not(None), UserState.DISABLED),
    else_=UserState.ACTIVE,
)

FILTER = Filter(
    {
        "email": caseless(UserTable.email),
        "full_name": caseless(UserTable.full_name),
        "state": choice(_STATE, UserState),
        "is_admin": boolean(UserTable.is_admin),
        "email_verified": boolean(UserTable.email_verify_time.is_not(None)),
        "create_time": moment(UserTable.create_time),
    }
)
"""What the list of users can be filtered by."""

_USER = tuple(getattr(UserTable, name) for name in User._fields)
_LIST = NewestFirst(User._make, _USER)
# Since PostgreSQL 18, what RESTRICT forbids has a state of its own.
_REFERRED_TO = ("23503", "23001")


class StillReferredTo(Exception):
    """Another service has something of the user."""


class UserLists:
    """Users, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def list_newest_first(self, page: PageRequest, conditions: Sequence[ColumnElement[bool]]) -> Page[User]:
        """A page of the users that meet conditions, newest first, and how many there are in all, at one moment."""
        return await _LIST.page(self._tx, page, *conditions)

    async def count_active_admins(self) -> int:
        """How many administrators are active."""
        statement = select(func.count()).where(UserTable.is_admin, _STATE == UserState.ACTIVE)
        return (await self._tx.execute(statement)).scalar_one()

    async def lock(self, user_ids: Sequence[UUID]) -> None:
        """Let nobody else change these users until the transaction ends. Any two who do this do it in one order."""
        statement = select(UserTable.id).where(UserTable.id.in_(user_ids)).order_by(UserTable.id)
        await self._tx.execute(statement.with_for_update(key_share=True))

    async def lock_due(self, now: datetime, limit: int) -> Sequence[UUID]:
        """Some deleted users whose time is over and whose removal has not begun, without those that others hold."""
        statement = (
            select(UserTable.id)
            .where(UserTable.purge_time <= now, UserTable.purging.is_(False))
            .order_by(UserTable.purge_time)
            .limit(limit)
        )
        return (await self._tx.execute(statement.with_for_update(key_share=True, skip_locked=True))).scalars().all()

    async def purging(self, now: datetime, limit: int) -> Sequence[UUID]:
        """Some users who are being removed, those first who have been for the longest."""
        statement = (
            select(UserTable.id)
            .where(UserTable.purge_time <= now, UserTable.purging)
            .order_by(UserTable.purge_time)
            .limit(limit)
        )
        return (await self._tx.execute(statement)).scalars().all()

    async def delete_sessions(self, user_id: UUID, limit: int) -> int:
        """Remove some sessions of a user with their tokens; how many."""
        some = select(SessionTable.id).where(SessionTable.user_id == user_id).order_by(SessionTable.id).limit(limit)
        return (await self._tx.execute(delete(SessionTable).where(SessionTable.id.in_(some)))).rowcount

    async def delete_user(self, user_id: UUID) -> None:
        """Remove a user with its sessions and codes. Raises StillReferredTo: the transaction can do no more then."""
        try:
            await self._tx.execute(delete(UserTable).where(UserTable.id == user_id))
        except exc.IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) in _REFERRED_TO:
                raise StillReferredTo from error
            raise
