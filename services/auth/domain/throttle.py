"""Guessing is slowed down: by account, so that no password or code is found, and by address, so that no list is tried.

Accounts and addresses are kept as hashes, and whether an account exists makes no difference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.errors import PasswordLocked, TooManyAttempts
from services.auth.repository.throttles import Limits, Throttles
from services.kit.database import Database
from services.kit.origin import Origin

MOST_PASSWORDS = 100
"""NIST SP 800-63B-4 §3.2.2 allows no more failures in succession."""
UNUSED_KEPT = timedelta(days=90)

_SECOND = timedelta(seconds=1)
_QUARTER = timedelta(minutes=15)


class ThrottleKind(StrEnum):
    """What is counted, each for itself."""

    SIGN_IN = "SIGN_IN"
    """Passwords, wherever they are checked."""
    CODE = "CODE"
    """Mailed codes that are presented."""
    MAIL = "MAIL"
    """Mails that are asked for: each counts, as none of them can fail."""
    SERVICE = "SERVICE"
    """Wrong secrets of services. It bounds what of them is taken down; a right one is never held up."""


_ACCOUNT = {
    ThrottleKind.SIGN_IN: Limits(5, _SECOND, _QUARTER, most=MOST_PASSWORDS),
    ThrottleKind.CODE: Limits(5, _SECOND, _QUARTER, memory=timedelta(hours=1)),
    ThrottleKind.MAIL: Limits(5, timedelta(minutes=1), _QUARTER, memory=timedelta(hours=1)),
    ThrottleKind.SERVICE: Limits(5, _SECOND, _QUARTER, memory=timedelta(hours=1)),
}
_ADDRESS_MEMORY = timedelta(minutes=15)
_ADDRESS = Limits(100, _SECOND, timedelta(minutes=1), memory=_ADDRESS_MEMORY)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that was allowed. It counts as a failure of the account until it is said to be something else."""

    now: datetime
    account_key: bytes
    address_key: bytes | None
    charged_after: datetime | None
    """The address's last failure before this, if it has had so many that it is charged when an attempt is made.

    Others are charged when an attempt has failed, so that many who succeed at once are not in each other's way.
    """

    async def succeeded(self, tx: AsyncConnection) -> None:
        """It was right: the account's failures are forgotten, and the address is not charged."""
        await Throttles(tx).clear([self.account_key])
        await self._spare_address(tx)

    async def failed(self, tx: AsyncConnection) -> None:
        """It was wrong: the address is charged as well."""
        if self.address_key is not None and self.charged_after is None:
            await Throttles(tx).count(self.address_key, self.now, _ADDRESS, whatever=True)

    async def withdrawn(self, tx: AsyncConnection) -> None:
        """Nothing was checked, as when too many wait for that: it counts neither way."""
        await Throttles(tx).take_back(self.account_key, self.now, self.now)
        await self._spare_address(tx)

    async def _spare_address(self, tx: AsyncConnection) -> None:
        if self.address_key is not None and self.charged_after is not None:
            await Throttles(tx).take_back(self.address_key, self.now, self.charged_after)


class Throttle:
    """Counts attempts in the database, so that it holds over all processes."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._clock = clock

    async def begin(self, kind: ThrottleKind, *, account: str, origin: Origin) -> Attempt:
        """Before anything is checked: raises TooManyAttempts, or PasswordLocked, when no attempt is allowed now.

        The attempt counts from now on, so that attempts at once cannot overtake the counter. Its caller says
        afterwards, in the transaction that stores the outcome, whether it `succeeded`, `failed` or was `withdrawn`.
        `account` is what `email_key` makes of an address.
        """
        now = self._clock()
        limits = _ACCOUNT[kind]
        account_key, address_key = _key(kind, "account", account), _address_key(kind, origin)
        async with self._db.read() as tx:
            # The address first: one that has to wait must not lock accounts.
            charged_after = await self._charge(tx, kind, address_key, now) if address_key is not None else None
            if not await Throttles(tx).count(account_key, now, limits):
                await self._refuse(tx, account_key, now, limits)
        return Attempt(now, account_key, address_key, charged_after)

    async def clear(self, tx: AsyncConnection, account: str) -> None:
        """Take passwords of this account again: its password was reset."""
        await Throttles(tx).clear([_key(ThrottleKind.SIGN_IN, "account", account)])

    async def forget(self, tx: AsyncConnection, account: str) -> None:
        """Keep nothing of this account: whoever registers with its address next is somebody else."""
        await Throttles(tx).clear([_key(kind, "account", account) for kind in ThrottleKind])

    async def delete_unused(self, tx: AsyncConnection) -> int:
        """Remove counters that nobody has used for 90 days; how many. An account that is locked stays so."""
        return await Throttles(tx).delete_older(self._clock() - UNUSED_KEPT)

    async def _charge(self, tx: AsyncConnection, kind: ThrottleKind, key: bytes, now: datetime) -> datetime | None:
        """Charge an address at once if it has many failures, or if there is nothing that could succeed."""
        last_failure_time = now
        if kind != ThrottleKind.MAIL:
            known = await Throttles(tx).get(key)
            if known is None or known.failures < _ADDRESS.free or known.last_failure_time <= now - _ADDRESS_MEMORY:
                return None
            last_failure_time = known.last_failure_time
        if not await Throttles(tx).count(key, now, _ADDRESS):
            await self._refuse(tx, key, now, _ADDRESS)
        return last_failure_time

    async def _refuse(self, tx: AsyncConnection, key: bytes, now: datetime, limits: Limits) -> None:
        known = await Throttles(tx).get(key)
        if known is not None and limits.most is not None and known.failures >= limits.most:
            raise PasswordLocked
        # Whoever held it up may have succeeded since: then any moment will do.
        left = timedelta() if known is None else known.retry_time - now
        raise TooManyAttempts(retry_after=max(left, timedelta(milliseconds=100)))


def _key(kind: ThrottleKind, what: str, value: str) -> bytes:
    return sha256(f"{kind}:{what}:{value}".encode()).digest()


def _address_key(kind: ThrottleKind, origin: Origin) -> bytes | None:
    """None for a caller without an IP address, such as one on a Unix socket."""
    try:
        address: IPv4Address | IPv6Address = ip_address(origin.address)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            # A host has 2^64 addresses of its own, and what is given to a customer is seldom less.
            return _key(kind, "address", address.packed[:8].hex())
        address = address.ipv4_mapped
    return _key(kind, "address", str(address))
