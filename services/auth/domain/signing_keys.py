"""The life of signing keys: made and published, activated once every verifier can have them, retired, gone.

At most one waits and at most one signs. All changes take turns by one lock, so that any number of processes can make
them at once (docs/decisions/tokens.md).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.actor import OPERATOR, Actor
from services.auth.domain.admin_access import require_admin
from services.auth.domain.audit import Audit
from services.auth.domain.secret import Secret
from services.auth.errors import SigningKeyActive, SigningKeyNotFound, SigningKeyRetired, SigningKeyTooYoung
from services.auth.models.audit import AuditType
from services.auth.models.keys import KeyState, SigningKey
from services.auth.repository.signing_keys import SigningKeyRows
from services.kit import base64url
from services.kit.bus import Bus
from services.kit.database import Database

BUS_TOPIC = "signing-keys"
RELOAD_INTERVAL = timedelta(seconds=3)
"""How often every process of auth looks which keys there are, hint or no hint."""
MARGIN = timedelta(seconds=5)
"""What a verifier may take to ask once its answer is too old: 2 s between two attempts, and 3 s for an answer."""
SLACK = timedelta(minutes=1)
"""Clocks of machines differ, and a process may sign for a moment more with a key that another has retired."""


@dataclass(frozen=True)
class KeyTimes:
    """What the life of a key is reckoned from."""

    jwks: timedelta
    """How long verifiers may keep the answer of GetJwks."""
    token_life: timedelta
    """How long a token lives at the most, whichever process has signed it."""

    def ready_time(self, key: SigningKey) -> datetime:
        """When every verifier has a key: all processes of auth give it out, and all earlier answers are too old."""
        return key.create_time + RELOAD_INTERVAL + self.jwks + MARGIN

    def expire_time(self, retire_time: datetime) -> datetime:
        """When the last token of a key has expired that is retired at a time."""
        return retire_time + self.token_life + SLACK


class SigningKeys:
    """What can be done with the keys, by the operator or by an administrator.

    Everything that takes an actor raises SessionRevoked or AccessDenied for one who is no administrator any more.
    """

    def __init__(
        self,
        db: Database,
        secret: Secret,
        audit: Audit,
        bus: Bus,
        *,
        times: KeyTimes,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._secret = secret
        self._audit = audit
        self._bus = bus
        self._times = times
        self._clock = clock

    def ready_time(self, key: SigningKey) -> datetime:
        """From when on a key can be activated."""
        return self._times.ready_time(key)

    async def list_signing_keys(self, actor: Actor = OPERATOR) -> Sequence[SigningKey]:
        """All keys that are not gone, newest first."""
        async with self._db.read() as tx:
            await self._admit(tx, actor)
            return await SigningKeyRows(tx).all(self._clock())

    async def create_signing_key(self, actor: Actor = OPERATOR) -> SigningKey:
        """Make a key and publish it; while one waits, that one."""
        async with self._db.transaction() as tx:
            keys = await self._locked(tx, actor)
            for key in keys:
                if key.state is KeyState.PUBLISHED:
                    return key
            created = await self._make(tx, keys, actor)
        self._hint()
        return created

    async def activate_signing_key(self, kid: str, actor: Actor = OPERATOR) -> SigningKey:
        """Sign with a key from now on, and retire the one that did so far.

        Raises SigningKeyNotFound, SigningKeyTooYoung, SigningKeyRetired.
        """
        async with self._db.transaction() as tx:
            keys = await self._locked(tx, actor)
            key = _found(keys, kid)
            if key.state is KeyState.RETIRED:
                raise SigningKeyRetired
            if key.state is KeyState.ACTIVE:
                return key
            now = self._clock()
            if now < self.ready_time(key):
                raise SigningKeyTooYoung(retry_after=self.ready_time(key) - now)
            for other in keys:
                if other.state is KeyState.ACTIVE:
                    await SigningKeyRows(tx).retire(other.kid, now, self._times.expire_time(now))
                    await self._record_retired(tx, actor, other, immediately=False)
            activated = await self._activate(tx, key, actor)
        self._hint()
        return activated

    async def retire_signing_key(
        self, kid: str, actor: Actor = OPERATOR, *, immediately: bool = False
    ) -> SigningKey | None:
        """Take a key out of use that does not sign; None when it is gone at once: as was asked, or as it never signed.

        Raises SigningKeyNotFound, SigningKeyActive.
        """
        async with self._db.transaction() as tx:
            key = _found(await self._locked(tx, actor), kid)
            if key.state is KeyState.ACTIVE:
                raise SigningKeyActive
            if key.state is KeyState.RETIRED and not immediately:
                return key
            await SigningKeyRows(tx).delete(kid)
            await self._record_retired(tx, actor, key, immediately=immediately)
        self._hint()
        return None

    async def replace_signing_keys(self, actor: Actor = OPERATOR) -> SigningKey:
        """Sign with a new key at once, and let all others be gone: for when somebody else may have one.

        All tokens that were given out so far are refused as soon as the verifiers have asked for the keys again.
        """
        async with self._db.transaction() as tx:
            keys = await self._locked(tx, actor)
            created = await self._make(tx, keys, actor)
            for key in keys:
                await SigningKeyRows(tx).delete(key.kid)
                await self._record_retired(tx, actor, key, immediately=True)
            activated = await self._activate(tx, created, actor)
        self._hint()
        return activated

    async def make_first(self) -> None:
        """Make a key and activate it, unless there is one that signs; any number of processes at once make one."""
        async with self._db.transaction() as tx:
            keys = await self._locked(tx, OPERATOR)
            if any(key.state is KeyState.ACTIVE for key in keys):
                return
            await self._activate(tx, await self._make(tx, keys, OPERATOR), OPERATOR)
        self._hint()

    async def _admit(self, tx: AsyncConnection, actor: Actor) -> None:
        if actor != OPERATOR:
            await require_admin(tx, actor, self._clock())

    async def _locked(self, tx: AsyncConnection, actor: Actor) -> Sequence[SigningKey]:
        await self._admit(tx, actor)
        await SigningKeyRows(tx).lock()
        return await SigningKeyRows(tx).all(self._clock())

    async def _make(self, tx: AsyncConnection, others: Sequence[SigningKey], actor: Actor) -> SigningKey:
        for other in others:
            # Whoever has another secret than the processes of auth would make a key that none of them can sign with.
            self._secret.decrypt(other.private_key, other.kid)
        private = Ed25519PrivateKey.generate()
        raw = private.public_key().public_bytes_raw()
        kid = thumbprint(raw)
        sealed = self._secret.encrypt(private.private_bytes_raw(), kid)
        key = SigningKey(kid, raw, sealed, self._clock(), None, None, None)
        await SigningKeyRows(tx).add(key)
        await self._audit.record(tx, AuditType.SIGNING_KEY_CREATED, **actor._asdict(), kid=kid)
        return key

    async def _activate(self, tx: AsyncConnection, key: SigningKey, actor: Actor) -> SigningKey:
        now = self._clock()
        await SigningKeyRows(tx).activate(key.kid, now)
        await self._audit.record(tx, AuditType.SIGNING_KEY_ACTIVATED, **actor._asdict(), kid=key.kid)
        return key._replace(activate_time=now)

    async def _record_retired(self, tx: AsyncConnection, actor: Actor, key: SigningKey, *, immediately: bool) -> None:
        await self._audit.record(
            tx,
            AuditType.SIGNING_KEY_RETIRED,
            **actor._asdict(),
            kid=key.kid,
            immediately=str(immediately).lower(),
        )

    def _hint(self) -> None:
        self._bus.hint(BUS_TOPIC, int(self._clock().timestamp() * 1000))


def thumbprint(public_key: bytes) -> str:
    """The RFC 7638 thumbprint of an Ed25519 key: SHA-256 over its required members in lexical order, base64url."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": base64url.encode(public_key)}
    return base64url.encode(sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest())


def _found(keys: Sequence[SigningKey], kid: str) -> SigningKey:
    for key in keys:
        if key.kid == kid:
            return key
    raise SigningKeyNotFound
