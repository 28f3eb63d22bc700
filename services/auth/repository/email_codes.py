"""Codes that were mailed to users."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.users import CodePurpose, EmailCodeTable


class EmailCodeRows:
    """The codes, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def put(
        self, user_id: UUID, purpose: CodePurpose, code_hash: bytes, now: datetime, expire_time: datetime
    ) -> None:
        """Store a user's code for a purpose in place of the one before."""
        values = {"code_hash": code_hash, "create_time": now, "expire_time": expire_time, "tries": 0}
        statement = insert(EmailCodeTable).values(user_id=user_id, purpose=purpose, **values)
        await self._tx.execute(statement.on_conflict_do_update(index_elements=["user_id", "purpose"], set_=values))

    async def count_try(self, user_id: UUID, purpose: CodePurpose, now: datetime, most: int) -> bytes | None:
        """Count a try and give the hash of the code; None when there is no code, or none that can be tried any more.

        It is one statement: of any number of tries at once, no more than `most` see the hash.
        """
        statement = (
            update(EmailCodeTable)
            .where(EmailCodeTable.user_id == user_id, EmailCodeTable.purpose == purpose)
            .where(EmailCodeTable.expire_time > now, EmailCodeTable.tries < most)
            .values(tries=EmailCodeTable.tries + 1)
        )
        return (await self._tx.execute(statement.returning(EmailCodeTable.code_hash))).scalar_one_or_none()

    async def take_back_try(self, user_id: UUID, purpose: CodePurpose, code_hash: bytes) -> None:
        """Count one try less of this code."""
        await self._tx.execute(
            update(EmailCodeTable)
            .where(EmailCodeTable.user_id == user_id, EmailCodeTable.purpose == purpose)
            .where(EmailCodeTable.code_hash == code_hash)
            .values(tries=func.greatest(EmailCodeTable.tries - 1, 0))
        )

    async def delete(self, user_id: UUID, purpose: CodePurpose, code_hash: bytes) -> bool:
        """Remove a user's code for a purpose; False when it is this one no longer."""
        statement = delete(EmailCodeTable).where(
            EmailCodeTable.user_id == user_id,
            EmailCodeTable.purpose == purpose,
            EmailCodeTable.code_hash == code_hash,
        )
        return (await self._tx.execute(statement)).rowcount == 1

    async def delete_any(self, user_id: UUID, purpose: CodePurpose) -> None:
        """Remove a user's code for a purpose, whichever it is."""
        of_purpose = (EmailCodeTable.user_id == user_id) & (EmailCodeTable.purpose == purpose)
        await self._tx.execute(delete(EmailCodeTable).where(of_purpose))

    async def delete_expired(self, before: datetime) -> int:
        """Remove codes that expired before a time; how many."""
        return (await self._tx.execute(delete(EmailCodeTable).where(EmailCodeTable.expire_time < before))).rowcount
