"""Guessing is slowed down: by account, so that no password or code is found, and by address, so that no list is tried.

Accounts and addresses are kept as hashes, and whether an account exists makes no difference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.errors import PasswordLocked, TooManyAttempts
from services.auth.repository.throttles import Limits, Throttles
from services.kit.database import Database
from services.kit.origin import Origin

MOST_PASSWORDS = 100
"""NIST SP 800-63B-4 §3.2.2 allows no more failures in succession."""
UNUSED_KEPT = timedelta(days=90)


class ThrottleKind(StrEnum):
    """What is counted, each for itself."""

    SIGN_IN = "SIGN_IN"
    """Passwords of those who sign in, by their address."""
    PASSWORD_CHANGE = "PASSWORD_CHANGE"  # no password
    """Passwords of those who change theirs, by the user's id: strangers can use the address, and not the id."""
    REGISTER = "REGISTER"
    """Registrations: each counts, since one that fails tells who has registered, and one that succeeds costs a hash."""
    RESET = "RESET"
    """Codes to reset a password, which anybody can present for any account: so no account is slowed down."""
    VERIFICATION = "VERIFICATION"
    """Codes to verify an address, by the user's id."""
    MAIL = "MAIL"
    """Mails with a code to reset a password, for which anybody can ask: each counts, as none of them can fail."""
    VERIFICATION_MAIL = "VERIFICATION_MAIL"
    """Mails with a code to verify an address, by the user's id."""
    WELCOME_MAIL = "WELCOME_MAIL"
    """Welcome mails that are asked for once more, by the user's id."""
    PASSWORD_NOTICE = "PASSWORD_NOTICE"  # no password
    """Mails that tell of a changed password, by the user's id. They are put off, never refused."""
    SERVICE = "SERVICE"
    """Wrong secrets of services. It bounds what of them is taken down; a right one is never held up."""


@dataclass(frozen=True, slots=True)
class _Counters:
    """What there is to count for a kind."""

    account: Limits | None
    address: Limits
    pair: Limits | None = None
    """The account, as far as one address is concerned with it."""
    in_advance: bool = False
    """The address is charged with every attempt, not only with those that have failed."""


_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_QUARTER = timedelta(minutes=15)
_HOUR = timedelta(hours=1)

_ADDRESS = Limits(100, _SECOND, _MINUTE, memory=_QUARTER)
_PASSWORDS = Limits(5, _SECOND, _QUARTER, most=MOST_PASSWORDS)
_MAILS = Limits(5, _MINUTE, _QUARTER, memory=_HOUR)
_NOTICES = Limits(1, 5 * _MINUTE, 5 * _MINUTE, memory=_HOUR)
_COUNTERS = {
    ThrottleKind.SIGN_IN: _Counters(_PASSWORDS, _ADDRESS),
    ThrottleKind.PASSWORD_CHANGE: _Counters(_PASSWORDS, _ADDRESS),
    ThrottleKind.REGISTER: _Counters(None, Limits(100, _SECOND, _MINUTE, span=_HOUR), in_advance=True),
    # In the 15 minutes of a code, an address gets fewer tries than the code has: alone it cannot use them up.
    ThrottleKind.RESET: _Counters(None, Limits(20, _SECOND, _MINUTE, memory=_QUARTER), in_advance=True),
    ThrottleKind.VERIFICATION: _Counters(Limits(5, _SECOND, _QUARTER, memory=_HOUR), _ADDRESS),
    # One address gets 12 mails in an hour at the most: alone it cannot use up those of the account.
    ThrottleKind.MAIL: _Counters(Limits(20, _MINUTE, _QUARTER, span=_HOUR), _ADDRESS, pair=_MAILS, in_advance=True),
    ThrottleKind.VERIFICATION_MAIL: _Counters(_MAILS, _ADDRESS, in_advance=True),
    ThrottleKind.WELCOME_MAIL: _Counters(_MAILS, _ADDRESS, in_advance=True),
    ThrottleKind.PASSWORD_NOTICE: _Counters(_NOTICES, _ADDRESS),
    ThrottleKind.SERVICE: _Counters(Limits(5, _SECOND, _QUARTER, memory=_HOUR), _ADDRESS),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that was allowed. It counts as a failure of the account until it is said to be something else."""

    now: datetime
    account_keys: Sequence[bytes]
    address_key: bytes | None
    address_limits: Limits
    charged_after: datetime | None
    """The address's last failure before this, if it was charged when the attempt was made.

    It is if it has had many failures. Others are charged when an attempt has failed, so that many who succeed at once
    are not in each other's way.
    """

    async def succeeded(self, tx: AsyncConnection) -> None:
        """It was right: the account's failures are forgotten, and the address is not charged."""
        await Throttles(tx).clear(self.account_keys)
        await self._spare_address(tx)

    async def failed(self, tx: AsyncConnection) -> None:
        """It was wrong: the address is charged as well."""
        if self.address_key is not None and self.charged_after is None:
            await Throttles(tx).count(self.address_key, self.now, self.address_limits, whatever=True)

    async def withdrawn(self, tx: AsyncConnection) -> None:
        """Nothing was checked, as when too many wait for that: it counts neither way."""
        for key in self.account_keys:
            await Throttles(tx).take_back(key, self.now, self.now)
        await self._spare_address(tx)

    async def _spare_address(self, tx: AsyncConnection) -> None:
        if self.address_key is not None and self.charged_after is not None:
            await Throttles(tx).take_back(self.address_key, self.now, self.charged_after)


class Throttle:
    """Counts attempts in the database, so that it holds over all processes."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._clock = clock

    async def begin(self, kind: ThrottleKind, *, account: str | None = None, origin: Origin) -> Attempt:
        """Before anything is checked: raises TooManyAttempts, or PasswordLocked, when no attempt is allowed now.

        The attempt counts from now on, so that attempts at once cannot overtake the counter. Its caller says
        afterwards, in the transaction that stores the outcome, whether it `succeeded`, `failed` or was `withdrawn`.
        `account` is what `email_key` makes of an address, or a user's id; kinds that count no accounts need none.
        """
        now = self._clock()
        counters = _COUNTERS[kind]
        address_key = _address_key(kind, origin, counters.address, now)
        account_keys = []
        async with self._db.read() as tx:
            # The address first, and what it has to do with the account: one that has to wait must not lock accounts.
            charged_after = await self._charge(tx, counters, address_key, now) if address_key is not None else None
            for limits, what, whose in (
                (counters.pair, "pair", f"{_network(origin)} {account}"),
                (counters.account, "account", account),
            ):
                if limits is not None and whose is not None:
                    account_keys.append(_key(kind, what, whose, limits, now))
                    await self._count(tx, account_keys[-1], now, limits)
        return Attempt(now, account_keys, address_key, counters.address, charged_after)

    async def put_off(self, tx: AsyncConnection, kind: ThrottleKind, *, account: str) -> timedelta:
        """For how long to put off what is done in any case, in the caller's transaction, which counts it."""
        now, limits = self._clock(), _COUNTERS[kind].account
        assert limits is not None
        key = _key(kind, "account", account, limits, now)
        known = await Throttles(tx).get(key)
        await Throttles(tx).count(key, now, limits, whatever=True)
        return timedelta() if known is None else max(known.retry_time - now, timedelta())

    async def clear(self, tx: AsyncConnection, *, email: str, user_id: UUID) -> None:
        """Take passwords of this user again, by its `email_key` and by its id: its password was reset."""
        keys = [
            self._account_key(ThrottleKind.SIGN_IN, email),
            self._account_key(ThrottleKind.PASSWORD_CHANGE, str(user_id)),
        ]
        await Throttles(tx).clear(keys)

    async def forget(self, tx: AsyncConnection, *, email: str, user_id: UUID) -> None:
        """Keep nothing of this account: whoever registers with its address next is somebody else."""
        keys = [self._account_key(kind, account) for kind in ThrottleKind for account in (email, str(user_id))]
        await Throttles(tx).clear(keys)

    async def delete_unused(self, tx: AsyncConnection) -> int:
        """Remove counters that nobody has used for 90 days; how many. An account that is locked stays so."""
        return await Throttles(tx).delete_older(self._clock() - UNUSED_KEPT)

    async def _charge(self, tx: AsyncConnection, counters: _Counters, key: bytes, now: datetime) -> datetime | None:
        """Charge an address at once if it has many failures, or if that is done with every attempt of the kind."""
        limits = counters.address
        known = await Throttles(tx).get(key)
        if not counters.in_advance:
            is_forgotten = (
                known is not None and limits.memory is not None and known.last_failure_time <= now - limits.memory
            )
            if known is None or is_forgotten or known.failures < limits.free:
                return None
        await self._count(tx, key, now, limits)
        return now if known is None else known.last_failure_time

    async def _count(self, tx: AsyncConnection, key: bytes, now: datetime, limits: Limits) -> None:
        if await Throttles(tx).count(key, now, limits):
            return
        known = await Throttles(tx).get(key)
        if known is not None and limits.most is not None and known.failures >= limits.most:
            raise PasswordLocked
        # Whoever held it up may have succeeded since: then any moment will do.
        left = timedelta() if known is None else known.retry_time - now
        raise TooManyAttempts(retry_after=max(left, timedelta(milliseconds=100)))

    def _account_key(self, kind: ThrottleKind, account: str) -> bytes:
        return _key(kind, "account", account, _COUNTERS[kind].account, self._clock())


def _key(kind: ThrottleKind, what: str, value: str, limits: Limits | None, now: datetime) -> bytes:
    span = f":{int(now.timestamp() // limits.span.total_seconds())}" if limits is not None and limits.span else ""
    return sha256(f"{kind}:{what}:{value}{span}".encode()).digest()


def _address_key(kind: ThrottleKind, origin: Origin, limits: Limits, now: datetime) -> bytes | None:
    """None for a caller without an IP address, such as one on a Unix socket."""
    network = _network(origin)
    return _key(kind, "address", network, limits, now) if network else None


def _network(origin: Origin) -> str:
    """What stands for an address; empty for none."""
    try:
        address: IPv4Address | IPv6Address = ip_address(origin.address)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            # A host has 2^64 addresses of its own, and what is given to a customer is seldom less.
            return address.packed[:8].hex()
        address = address.ipv4_mapped
    return str(address)
