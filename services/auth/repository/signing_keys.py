"""Signing keys."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.keys import SigningKey, SigningKeyTable

# Any number will do as long as no other advisory lock of ours uses it.
_FIRST_KEY_LOCK = 0x70_6B_65_79
_KEY = tuple(SigningKeyTable.__table__.columns[name] for name in SigningKey._fields)


class SigningKeyRows:
    """Signing keys, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def all(self) -> Sequence[SigningKey]:
        """Every key, the newest first."""
        newest_first = (SigningKeyTable.create_time.desc(), SigningKeyTable.kid)
        return [SigningKey(*row) for row in await self._tx.execute(select(*_KEY).order_by(*newest_first))]

    async def lock_first(self) -> None:
        """Wait until no other process is making the first key, until the transaction ends."""
        await self._tx.execute(select(func.pg_advisory_xact_lock(_FIRST_KEY_LOCK)))

    async def add(self, key: SigningKey) -> None:
        """Store a key."""
        await self._tx.execute(insert(SigningKeyTable).values(**key._asdict()))
