"""Every SQL statement of auth."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import RowMapping, Select, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models import (
    KeyRow,
    RefreshToken,
    Session,
    SessionRow,
    SigningKey,
    TokenRow,
    User,
    UserRow,
)

# Any number will do as long as no other advisory lock of ours uses it.
_FIRST_KEY_LOCK = 0x70_6B_65_79


_USER = (User.id, User.email, User.full_name, User.password_hash, User.create_time, User.update_time)
_SESSION = (
    Session.id,
    Session.user_id,
    Session.device_label,
    Session.create_time,
    Session.expire_time,
    Session.revoke_time,
)


class Users:
    """Users, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add(self, user: UserRow, email_key: str) -> bool:
        """Store a user; False when the address is taken."""
        row = {name: getattr(user, name) for name in UserRow.__slots__}
        statement = insert(User).values(**row, email_key=email_key).on_conflict_do_nothing(index_elements=["email_key"])
        return (await self._tx.execute(statement.returning(User.id))).scalar_one_or_none() is not None

    async def by_email(self, email_key: str) -> UserRow | None:
        """The user with this address."""
        return await self._one(select(*_USER).where(User.email_key == email_key))

    async def by_id(self, user_id: UUID) -> UserRow | None:
        """The user with this id."""
        return await self._one(select(*_USER).where(User.id == user_id))

    async def _one(self, statement: Select[UUID, str, str, str, datetime, datetime]) -> UserRow | None:
        row = (await self._tx.execute(statement)).mappings().one_or_none()
        return None if row is None else UserRow(**row)


class Sessions:
    """Sessions and their refresh tokens, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add(self, session: SessionRow) -> None:
        """Store a session."""
        row = {name: getattr(session, name) for name in SessionRow.__slots__}
        await self._tx.execute(insert(Session).values(**row))

    async def get(self, session_id: UUID) -> SessionRow | None:
        """The session with this id."""
        return _session((await self._tx.execute(select(*_SESSION).where(Session.id == session_id))).mappings().first())

    async def lock_by_token(self, token_hash: bytes) -> tuple[SessionRow, TokenRow] | None:
        """The session and refresh token of this hash; the session stays locked until the transaction ends."""
        owner = select(RefreshToken.session_id).where(RefreshToken.token_hash == token_hash).scalar_subquery()
        statement = select(*_SESSION).where(Session.id == owner).with_for_update()
        session = _session((await self._tx.execute(statement)).mappings().first())
        if session is None:
            return None
        # Read only now: whoever held the lock before may have exchanged it.
        columns = (RefreshToken.session_id, RefreshToken.exchange_time, RefreshToken.request_id)
        token = (await self._tx.execute(select(*columns).where(RefreshToken.token_hash == token_hash))).mappings().one()
        return session, TokenRow(**token)

    async def add_token(self, token_hash: bytes, session_id: UUID, now: datetime) -> None:
        """Store a refresh token that is given out."""
        await self._tx.execute(
            insert(RefreshToken).values(token_hash=token_hash, session_id=session_id, create_time=now)
        )

    async def is_exchanged(self, token_hash: bytes) -> bool:
        """Whether this refresh token has been exchanged."""
        statement = select(RefreshToken.exchange_time).where(RefreshToken.token_hash == token_hash)
        return (await self._tx.execute(statement)).scalar_one_or_none() is not None

    async def exchange(self, token_hash: bytes, request_id: UUID | None, now: datetime) -> None:
        """Mark a refresh token as used up."""
        await self._tx.execute(
            update(RefreshToken)
            .where(RefreshToken.token_hash == token_hash)
            .values(exchange_time=now, request_id=request_id)
        )

    async def extend(self, session_id: UUID, expire_time: datetime) -> None:
        """Set when a session expires."""
        await self._tx.execute(update(Session).where(Session.id == session_id).values(expire_time=expire_time))

    async def revoke(self, session_id: UUID, now: datetime) -> bool:
        """End a session; False when it had ended."""
        statement = update(Session).where(Session.id == session_id, Session.revoke_time.is_(None))
        return (await self._tx.execute(statement.values(revoke_time=now))).rowcount == 1

    async def delete_expired(self, before: datetime) -> int:
        """Remove sessions that expired before a time, and their tokens; how many."""
        return (await self._tx.execute(delete(Session).where(Session.expire_time < before))).rowcount


class SigningKeyRows:
    """Signing keys, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def all(self) -> Sequence[KeyRow]:
        """Every key, the newest first."""
        columns = (SigningKey.kid, SigningKey.public_key, SigningKey.private_key)
        rows = await self._tx.execute(select(*columns).order_by(SigningKey.create_time.desc(), SigningKey.kid))
        return [KeyRow(**row) for row in rows.mappings()]

    async def lock_first(self) -> None:
        """Wait until no other process is making the first key, until the transaction ends."""
        await self._tx.execute(select(func.pg_advisory_xact_lock(_FIRST_KEY_LOCK)))

    async def add(self, key: KeyRow, now: datetime) -> None:
        """Store a key."""
        await self._tx.execute(
            insert(SigningKey).values(
                kid=key.kid, public_key=key.public_key, private_key=key.private_key, create_time=now
            )
        )


def _session(row: RowMapping | None) -> SessionRow | None:
    return None if row is None else SessionRow(**row)
