"""The accounts of services that call others: a name, a list of RPCs, and at most two secrets at a time."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.actor import OPERATOR, Actor
from services.auth.domain.admin_access import require_admin
from services.auth.domain.audit import Audit
from services.auth.domain.revocations import Revoker
from services.auth.domain.secret import new_secret, secret_hash
from services.auth.domain.signing import TokenIssuer
from services.auth.domain.throttle import Throttle, ThrottleKind
from services.auth.errors import CredentialsInvalid, ServiceAccountExists, ServiceAccountNotFound, TooManyAttempts
from services.auth.models.audit import AuditType
from services.auth.models.services import AccountSecrets, ServiceAccount
from services.auth.models.sessions import AccessToken
from services.auth.repository.service_accounts import ServiceAccountRows
from services.kit.database import Database
from services.kit.errors import DependencyUnavailable, FieldViolation, ValidationFailed
from services.kit.faults import describe_fault
from services.kit.ids import uuid7
from services.kit.origin import Origin
from services.kit.pages import Page, PageRequest

log = structlog.get_logger()

RETRY_SECONDS = 1.0
OVERLAP = timedelta(hours=24)
EVERY_BUILT_IN = (
    "parley.auth.v1.AuthService/WatchRevocations",
    "parley.auth.v1.AuthService/RecordRefusals",
)
"""What each of Parley's own services may call."""
SOME_BUILT_IN = {
    "file": (
        "parley.agent.v1.ExecutionService/CheckFileReader",
        "parley.chat.v1.ChatService/CheckFileReader",
    )
}
"""And what one of them may call besides, by its name."""
MAX_METHODS_LENGTH = 2_250
"""Characters of all methods: with more, the account's tokens would be larger than what a verifier takes."""


class ServiceAccounts:
    """What can be done with the accounts.

    Everything that takes an actor raises SessionRevoked or AccessDenied for one who is no administrator any more.
    """

    def __init__(
        self,
        db: Database,
        issuer: TokenIssuer,
        revoker: Revoker,
        throttle: Throttle,
        audit: Audit,
        clock: Callable[[], datetime],
        *,
        built_in: Collection[str],
    ) -> None:
        self.are_complete = False
        """Whether those that Parley's own services have from the start were made."""
        self._db = db
        self._issuer = issuer
        self._revoker = revoker
        self._throttle = throttle
        self._audit = audit
        self._clock = clock
        self._built_in = built_in

    async def create_service_account(
        self, name: str, methods: Sequence[str], actor: Actor
    ) -> tuple[AccountSecrets, str]:
        """Make an account; it, and its secret. Raises ServiceAccountExists, ValidationFailed."""
        if sum(map(len, methods)) > MAX_METHODS_LENGTH:
            raise ValidationFailed(
                fields=[FieldViolation("methods", f"must be at most {MAX_METHODS_LENGTH} characters in all")]
            )
        secret = new_secret()
        async with self._db.transaction() as tx:
            await require_admin(tx, actor, self._clock())
            account = await self._add(tx, name, methods, actor)
            if account is None:
                raise ServiceAccountExists
            await ServiceAccountRows(tx).add_secret(account.id, secret_hash(secret), account.create_time)
            return await self._with_secrets(tx, account), secret

    async def list_service_accounts(self, actor: Actor, page: PageRequest) -> Page[AccountSecrets]:
        """A page of all accounts, newest first."""
        async with self._db.transaction() as tx:
            await require_admin(tx, actor, self._clock())
            found = await ServiceAccountRows(tx).list_newest_first(page)
            secrets = await ServiceAccountRows(tx).secrets([account.id for account in found.items], self._clock())
        items = [
            AccountSecrets(account, [secret for secret in secrets if secret.service_account_id == account.id])
            for account in found.items
        ]
        return Page(items, found.next_after, found.total_size)

    async def rotate_service_account_secret(
        self, account_id: UUID, overlap: timedelta | None, actor: Actor
    ) -> tuple[AccountSecrets, str]:
        """Make a new secret; the newest so far stays good for `overlap`, by default 24 hours, others do not.

        Raises ServiceAccountNotFound.
        """
        secret = new_secret()
        async with self._db.transaction() as tx:
            await require_admin(tx, actor, self._clock())
            account = await ServiceAccountRows(tx).lock(account_id)
            if account is None:
                raise ServiceAccountNotFound
            await self._rotate(tx, account, secret, OVERLAP if overlap is None else overlap, actor)
            return await self._with_secrets(tx, account), secret

    async def delete_service_account(self, account_id: UUID, actor: Actor) -> None:
        """Remove an account, and end what its tokens open. Raises ServiceAccountNotFound."""
        async with self._db.transaction() as tx:
            await require_admin(tx, actor, self._clock())
            account = await ServiceAccountRows(tx).delete(account_id)
            if account is None:
                raise ServiceAccountNotFound
            revocation = await self._revoker.revoke(tx, [account_id], account_id)
            await self._record(tx, AuditType.SERVICE_ACCOUNT_DELETED, account, actor)
        self._revoker.announce(revocation)

    async def issue_service_token(self, name: str, secret: str, origin: Origin) -> AccessToken:
        """A token for the account of this name. Raises CredentialsInvalid, whether the name is known or not.

        To Parley's own services it raises DependencyUnavailable instead until their accounts and secrets are made.
        """
        may_come = name in self._built_in and not self.are_complete
        async with self._db.read() as tx:
            found = await ServiceAccountRows(tx).by_secret(name, secret_hash(secret), self._clock())
        if found is None or not found[1]:
            if may_come:
                raise DependencyUnavailable
            await self._take_down_failure(name, None if found is None else found[0], origin)
            raise CredentialsInvalid
        account = found[0]
        token = await self._issuer.issue_for_service(account)
        async with self._db.transaction() as tx:
            await self._record(tx, AuditType.SERVICE_SIGNED_IN, account, Actor(account.id, None, origin))
        return token

    async def ensure_built_in(self, name: str, secret: str) -> None:
        """See to it that there is an account of this name, with its methods, and that this secret is a good one."""
        methods = (*EVERY_BUILT_IN, *SOME_BUILT_IN.get(name, ()))
        async with self._db.transaction() as tx:
            if created := await self._add(tx, name, methods, OPERATOR):
                await ServiceAccountRows(tx).add_secret(created.id, secret_hash(secret), created.create_time)
                return
            account = await ServiceAccountRows(tx).lock_by_name(name)
            if account is None:
                return  # An administrator has just deleted it.
            if tuple(account.methods) != methods:
                await ServiceAccountRows(tx).set_methods(account.id, methods)
            known = await ServiceAccountRows(tx).by_secret(name, secret_hash(secret), self._clock())
            if known is None or not known[1]:
                await self._rotate(tx, account, secret, OVERLAP, OPERATOR)

    async def _add(self, tx: AsyncConnection, name: str, methods: Sequence[str], actor: Actor) -> ServiceAccount | None:
        account = ServiceAccount(uuid7(), name, list(methods), self._clock())
        if not await ServiceAccountRows(tx).add(account):
            return None
        await self._record(tx, AuditType.SERVICE_ACCOUNT_CREATED, account, actor)
        return account

    async def _rotate(
        self, tx: AsyncConnection, account: ServiceAccount, secret: str, overlap: timedelta, actor: Actor
    ) -> None:
        now = self._clock()
        await ServiceAccountRows(tx).expire_newest(account.id, now + overlap)
        await ServiceAccountRows(tx).add_secret(account.id, secret_hash(secret), now)
        await self._record(tx, AuditType.SERVICE_SECRET_ROTATED, account, actor)

    async def _take_down_failure(self, name: str, account: ServiceAccount | None, origin: Origin) -> None:
        """Record that a token was refused, as often as the throttle allows.

        The throttle keeps the audit log from being filled, and nothing else: 256 bits are not guessed, and a service
        whose secret is right must not wait because another one's, at the same address, is wrong.
        """
        with suppress(TooManyAttempts):
            attempt = await self._throttle.begin(ThrottleKind.SERVICE, account=name, origin=origin)
            async with self._db.transaction() as tx:
                await attempt.failed(tx)
                # An unknown name is something that somebody typed, perhaps into the wrong field.
                known: dict[str, Any] = {} if account is None else {"subject_id": account.id, "name": account.name}
                await self._audit.record(tx, AuditType.SERVICE_SIGN_IN_FAILED, origin=origin, **known)

    async def _with_secrets(self, tx: AsyncConnection, account: ServiceAccount) -> AccountSecrets:
        return AccountSecrets(account, await ServiceAccountRows(tx).secrets([account.id], self._clock()))

    async def _record(self, tx: AsyncConnection, kind: AuditType, account: ServiceAccount, actor: Actor) -> None:
        await self._audit.record(tx, kind, **actor._asdict(), subject_id=account.id, name=account.name)


class BuiltInAccounts:
    """The accounts that Parley's own services have from the start."""

    def __init__(self, db: Database, accounts: ServiceAccounts, secrets: Mapping[str, str]) -> None:
        self._db = db
        self._accounts = accounts
        self._secrets = secrets

    async def ensure(self) -> None:
        """Make those that are missing, once the database is there; the accounts are complete then."""
        while not self._accounts.are_complete:
            await self._db.wait_ready()
            try:
                for name, secret in self._secrets.items():
                    await self._accounts.ensure_built_in(name, secret)
                self._accounts.are_complete = True
            except Exception as error:  # noqa: BLE001  # without them no other service can work
                log.warning("accounts of services cannot be made, trying again", fault=describe_fault(error))
                await asyncio.sleep(RETRY_SECONDS)
