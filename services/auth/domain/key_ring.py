"""The keys as one process has them at hand: to sign with one, and to verify with all."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.auth.domain.secret import Secret
from services.auth.domain.signing_keys import BUS_TOPIC, RELOAD_INTERVAL, SigningKeys
from services.auth.models.keys import KeyState, SigningKey
from services.kit.bus import Bus
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault

log = structlog.get_logger()

UNKNOWN_KID_INTERVAL = 1.0
"""Seconds between two looks for a `kid` that is not known: anybody can make one up."""


class KeyRing:
    """The keys in the database, read again every few seconds, at a hint, and for a `kid` that is not known."""

    def __init__(self, keys: SigningKeys, secret: Secret, *, jwks: timedelta, clock: Callable[[], datetime]) -> None:
        self.on_gone: Callable[[], None] = lambda: None
        """Called when a key is gone: what was verified with it is good no more."""
        self._source = keys
        self._secret = secret
        self._jwks = jwks
        self._clock = clock
        self._keys: Sequence[SigningKey] = ()
        self._public: dict[str, Ed25519PublicKey] = {}
        self._signing: tuple[str, Ed25519PrivateKey] | None = None
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()

    async def current(self) -> tuple[str, Ed25519PrivateKey]:
        """The `kid` and the key to sign with. The first one is made when it is asked for."""
        # A process that signed with what it read long ago could outlast the time that a retired key stays published.
        await self._read(not_before=time.monotonic() - 2 * RELOAD_INTERVAL.total_seconds())
        active = self._active()
        if active is None:
            await self._source.make_first()
            await self._read(not_before=time.monotonic())
            active = self._active()
            assert active is not None  # Only another one's activation ends one.
        if self._signing is None or self._signing[0] != active.kid:
            private = self._secret.decrypt(active.private_key, active.kid)
            self._signing = active.kid, Ed25519PrivateKey.from_private_bytes(private)
        return self._signing

    async def published(self) -> tuple[Sequence[SigningKey], timedelta]:
        """Every key whose signatures are good or will be, and for how long verifiers may keep this answer."""
        if self._active() is None:
            await self.current()  # so that the first token finds its key with all verifiers
        age = timedelta(seconds=time.monotonic() - self._read_at)
        # What this process read a while ago, as the database is away, must not be kept for as long once more.
        return self._kept(), max(self._jwks - age, timedelta())

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this `kid`: this service is its own source of keys."""
        if not self._is_kept(kid):
            await self._read(not_before=time.monotonic() - (UNKNOWN_KID_INTERVAL if self._keys else 0))
        return self._public[kid] if self._is_kept(kid) else None

    def subscribe(self, bus: Bus) -> Callable[[], None]:
        """Hear of changes that other processes make, until the function that is returned is called."""
        return bus.subscribe(BUS_TOPIC, lambda _: self._changed.set())

    async def reload_for_ever(self) -> None:
        """Keep the keys as they are in the database."""
        while True:
            try:
                async with asyncio.timeout(RELOAD_INTERVAL.total_seconds()):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if not self._keys:
                continue  # Nobody has asked for one.
            try:
                await self._read(not_before=time.monotonic())
            except Unavailable:
                continue
            except Exception as error:  # noqa: BLE001  # without the next look, a key would be kept that is gone
                log.warning("signing keys cannot be read, trying again", fault=describe_fault(error))

    async def _read(self, *, not_before: float) -> None:
        """Read the keys unless they were read since; once for all who wait for it."""
        async with self._lock:
            if self._read_at >= not_before:
                return
            now, before = time.monotonic(), self._public
            self._keys = await self._source.list_signing_keys()
            self._public = {key.kid: Ed25519PublicKey.from_public_bytes(key.public_key) for key in self._keys}
            self._read_at = now
            if before.keys() - self._public.keys():
                self.on_gone()

    def _active(self) -> SigningKey | None:
        return next((key for key in self._keys if key.state is KeyState.ACTIVE), None)

    def _kept(self) -> Sequence[SigningKey]:
        now = self._clock()
        return [key for key in self._keys if key.expire_time is None or key.expire_time > now]

    def _is_kept(self, kid: str) -> bool:
        return any(key.kid == kid for key in self._kept())
