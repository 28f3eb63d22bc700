"""Service accounts and their secrets."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.services import ServiceAccount, ServiceAccountTable, ServiceSecret, ServiceSecretTable
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest

_ACCOUNT = tuple(getattr(ServiceAccountTable, name) for name in ServiceAccount._fields)
_SECRET = tuple(getattr(ServiceSecretTable, name) for name in ServiceSecret._fields)
_NEWEST_FIRST = NewestFirst(lambda row: ServiceAccount(*row), _ACCOUNT)


class ServiceAccountRows:
    """Service accounts and their secrets, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def add(self, account: ServiceAccount) -> bool:
        """Store an account; False when the name is taken."""
        statement = insert(ServiceAccountTable).values(**account._asdict())
        statement = statement.on_conflict_do_nothing(index_elements=["name"])
        return (await self._tx.execute(statement.returning(ServiceAccountTable.id))).scalar_one_or_none() is not None

    async def lock(self, account_id: UUID) -> ServiceAccount | None:
        """The account of this id, which stays as it is until the transaction ends."""
        return await self._one(select(*_ACCOUNT).where(ServiceAccountTable.id == account_id).with_for_update())

    async def lock_by_name(self, name: str) -> ServiceAccount | None:
        """The account of this name, which stays as it is until the transaction ends."""
        return await self._one(select(*_ACCOUNT).where(ServiceAccountTable.name == name).with_for_update())

    async def by_secret(self, name: str, secret_hash: bytes, now: datetime) -> tuple[ServiceAccount, bool] | None:
        """The account of this name, and whether the secret is a good one of it."""
        is_it = and_(
            ServiceSecretTable.service_account_id == ServiceAccountTable.id,
            ServiceSecretTable.secret_hash == secret_hash,
            _is_good(now),
        )
        statement = (
            select(*_ACCOUNT, ServiceSecretTable.secret_hash.is_not(None))
            .outerjoin(ServiceSecretTable, is_it)
            .where(ServiceAccountTable.name == name)
        )
        row = (await self._tx.execute(statement)).one_or_none()
        return None if row is None else (ServiceAccount(*row[:-1]), row[-1])

    async def list_newest_first(self, page: PageRequest) -> Page[ServiceAccount]:
        """A page of all accounts."""
        return await _NEWEST_FIRST.page(self._tx, page)

    async def set_methods(self, account_id: UUID, methods: Sequence[str]) -> None:
        """Let an account's tokens open these RPCs."""
        statement = update(ServiceAccountTable).where(ServiceAccountTable.id == account_id)
        await self._tx.execute(statement.values(methods=list(methods)))

    async def delete(self, account_id: UUID) -> ServiceAccount | None:
        """Remove an account with its secrets; what it was."""
        statement = delete(ServiceAccountTable).where(ServiceAccountTable.id == account_id).returning(*_ACCOUNT)
        row = (await self._tx.execute(statement)).one_or_none()
        return None if row is None else ServiceAccount(*row)

    async def secrets(self, account_ids: Sequence[UUID], now: datetime) -> Sequence[ServiceSecret]:
        """The good secrets of accounts, the newest first."""
        statement = (
            select(*_SECRET)
            .where(ServiceSecretTable.service_account_id.in_(account_ids), _is_good(now))
            .order_by(ServiceSecretTable.create_time.desc())
        )
        return [ServiceSecret(*row) for row in await self._tx.execute(statement)]

    async def add_secret(self, account_id: UUID, secret_hash: bytes, now: datetime) -> None:
        """Store a secret."""
        await self._tx.execute(
            insert(ServiceSecretTable).values(
                secret_hash=secret_hash, service_account_id=account_id, create_time=now, expire_time=None
            )
        )

    async def expire_newest(self, account_id: UUID, expire_time: datetime) -> None:
        """Let the newest secret be good for a while only, and remove those before it."""
        of_account = ServiceSecretTable.service_account_id == account_id
        is_older = ServiceSecretTable.expire_time.is_not(None)
        await self._tx.execute(delete(ServiceSecretTable).where(of_account, is_older))
        await self._tx.execute(update(ServiceSecretTable).where(of_account).values(expire_time=expire_time))

    async def delete_expired_secrets(self, now: datetime) -> int:
        """Remove secrets that are good no more; how many."""
        return (
            await self._tx.execute(delete(ServiceSecretTable).where(ServiceSecretTable.expire_time <= now))
        ).rowcount

    async def _one(self, statement: Select[*tuple[Any, ...]]) -> ServiceAccount | None:
        row = (await self._tx.execute(statement)).one_or_none()
        return None if row is None else ServiceAccount(*row)


def _is_good(now: datetime) -> ColumnElement[bool]:
    return ServiceSecretTable.expire_time.is_(None) | (ServiceSecretTable.expire_time > now)
