"""Users."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.sessions import SessionTable
from services.auth.models.users import User, UserTable
from services.kit.prepared import Prepared

_USER = tuple(UserTable.__table__.columns[name] for name in User._fields)

_BY_ID = select(*_USER).where(UserTable.id == bindparam("user_id"))
_GET = Prepared(_BY_ID)
_LOCK = Prepared(_BY_ID.with_for_update(key_share=True))
_FIND = Prepared(select(*_USER).where(UserTable.email_key == bindparam("email_key")))
_IS_LIVE = (
    select(SessionTable.id)
    .where(
        SessionTable.id == bindparam("session_id"),
        SessionTable.user_id == UserTable.id,
        SessionTable.revoke_time.is_(None),
        SessionTable.expire_time > bindparam("now"),
    )
    .exists()
)
_WITH_SESSION = Prepared(select(*_USER, _IS_LIVE).where(UserTable.id == bindparam("user_id")))


class Users:
    """Users, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add(self, user: User, email_key: str) -> bool:
        """Store a user; False when the address is taken."""
        statement = insert(UserTable).values(**user._asdict(), email_key=email_key)
        statement = statement.on_conflict_do_nothing(index_elements=["email_key"])
        return (await self._tx.execute(statement.returning(UserTable.id))).scalar_one_or_none() is not None

    async def by_email(self, email_key: str) -> User | None:
        """The user with this address."""
        return await self._one(_FIND, email_key=email_key)

    async def by_id(self, user_id: UUID) -> User | None:
        """The user with this id."""
        return await self._one(_GET, user_id=user_id)

    async def by_id_for_update(self, user_id: UUID) -> User | None:
        """The same, locked until the transaction ends."""
        return await self._one(_LOCK, user_id=user_id)

    async def update(self, user_id: UUID, changes: Mapping[str, Any], now: datetime) -> User:
        """Set columns of a user that is locked: its next revision."""
        statement = (
            update(UserTable)
            .where(UserTable.id == user_id)
            .values(**changes, revision=UserTable.revision + 1, update_time=now)
            .returning(*_USER)
        )
        return User(*(await self._tx.execute(statement)).one())

    async def set_password_hash(self, user_id: UUID, password_hash: str) -> None:
        """Store another hash of the same password, which changes nothing about the user."""
        await self._tx.execute(update(UserTable).where(UserTable.id == user_id).values(password_hash=password_hash))

    async def with_session(self, user_id: UUID, session_id: UUID, now: datetime) -> tuple[User | None, bool]:
        """The user with this id, and whether the session is the user's and has neither ended nor expired."""
        found = await _WITH_SESSION.first(self._tx, {"user_id": user_id, "session_id": session_id, "now": now})
        return (None, False) if found is None else (User(*found[:-1]), found[-1])

    async def _one(self, statement: Prepared, **values: Any) -> User | None:
        row = await statement.first(self._tx, values)
        return None if row is None else User(*row)
