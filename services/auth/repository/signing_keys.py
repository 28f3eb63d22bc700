"""Signing keys."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.keys import SigningKey, SigningKeyTable

# Readers go on. An advisory lock could be taken by any role of the database, and no key be changed any more.
_LOCK = text("LOCK TABLE auth.signing_keys IN SHARE ROW EXCLUSIVE MODE")
_KEY = tuple(SigningKeyTable.__table__.columns[name] for name in SigningKey._fields)


class SigningKeyRows:
    """Signing keys, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def all(self, now: datetime) -> Sequence[SigningKey]:
        """Every key that has not expired, the newest first."""
        is_kept = SigningKeyTable.expire_time.is_(None) | (SigningKeyTable.expire_time > now)
        newest_first = (SigningKeyTable.create_time.desc(), SigningKeyTable.kid)
        statement = select(*_KEY).where(is_kept).order_by(*newest_first)
        return [SigningKey(*row) for row in await self._tx.execute(statement)]

    async def lock(self) -> None:
        """Wait until nobody else changes the keys, until the transaction ends."""
        await self._tx.execute(_LOCK)

    async def add(self, key: SigningKey) -> None:
        """Store a key."""
        await self._tx.execute(insert(SigningKeyTable).values(**key._asdict()))

    async def activate(self, kid: str, now: datetime) -> None:
        """Let a key sign; no other may be active."""
        await self._tx.execute(update(SigningKeyTable).where(SigningKeyTable.kid == kid).values(activate_time=now))

    async def retire(self, kid: str, now: datetime, expire_time: datetime) -> None:
        """Let a key sign no more."""
        statement = update(SigningKeyTable).where(SigningKeyTable.kid == kid)
        await self._tx.execute(statement.values(retire_time=now, expire_time=expire_time))

    async def delete(self, kid: str) -> None:
        """Remove a key."""
        await self._tx.execute(delete(SigningKeyTable).where(SigningKeyTable.kid == kid))

    async def delete_expired(self, before: datetime) -> int:
        """Remove keys that expired before a time; how many."""
        return (await self._tx.execute(delete(SigningKeyTable).where(SigningKeyTable.expire_time < before))).rowcount
