"""Users."""

from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.users import User, UserTable

_USER = tuple(UserTable.__table__.columns[name] for name in User._fields)


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
        return await self._one(select(*_USER).where(UserTable.email_key == email_key))

    async def by_id(self, user_id: UUID) -> User | None:
        """The user with this id."""
        return await self._one(select(*_USER).where(UserTable.id == user_id))

    async def _one(self, statement: Select[*tuple[Any, ...]]) -> User | None:
        row = (await self._tx.execute(statement)).one_or_none()
        return None if row is None else User(*row)
