"""Service accounts and their secrets."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from services.auth.models.base import Base


class ServiceAccountTable(Base):
    """The account of a service that calls others."""

    __tablename__ = "service_accounts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    methods: Mapped[list[str]]
    create_time: Mapped[datetime]


class ServiceSecretTable(Base):
    """A secret of a service account, by its hash."""

    __tablename__ = "service_secrets"

    secret_hash: Mapped[bytes] = mapped_column(primary_key=True)
    service_account_id: Mapped[UUID] = mapped_column(ForeignKey(ServiceAccountTable.id))
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime | None]


class ServiceAccount(NamedTuple):
    """The account of a service. Its fields are columns of ServiceAccountTable."""

    id: UUID
    name: str
    methods: list[str]
    create_time: datetime


class ServiceSecret(NamedTuple):
    """What is known of a secret. Its fields are columns of ServiceSecretTable."""

    service_account_id: UUID
    create_time: datetime
    expire_time: datetime | None


class AccountSecrets(NamedTuple):
    """An account with what is known of its good secrets, the newest first."""

    account: ServiceAccount
    secrets: Sequence[ServiceSecret]
