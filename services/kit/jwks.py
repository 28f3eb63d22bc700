"""The public keys of the auth service, as every other service gets them: GetJwks, kept, and asked for again."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit import base64url
from services.kit.background import in_background
from services.kit.errors import DependencyUnavailable
from services.kit.faults import describe_fault
from services.kit.outage import Outage

log = structlog.get_logger()

REFETCH_INTERVAL = 2.0
FIRST_FETCH_INTERVAL = 0.3
FETCH_TIMEOUT = 3.0


class RemoteKeys:
    """Keys by `kid`. An unknown `kid`, or an answer older than its `max_age`, asks auth again, at most every 2 s.

    A key that is known is answered at once; whether it still is one is asked behind that.
    """

    def __init__(self, auth: auth_grpc.AuthServiceStub) -> None:
        self.on_gone: Callable[[], None] = lambda: None
        """Called when a key is gone: what was verified with it is good no more."""
        self._auth = auth
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._is_away = True
        self._ask_again_at = float("-inf")
        self._fresh_until = float("-inf")
        self._lock = asyncio.Lock()
        self._refreshing: asyncio.Task[None] | None = None
        self._outage = Outage("auth does not give its keys", "auth gives its keys again")

    @property
    def is_ready(self) -> bool:
        """Whether there are keys."""
        return bool(self._keys)

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this `kid`. Raises DependencyUnavailable if it is not known and auth could not be asked for it."""
        now = time.monotonic()
        if (key := self._keys.get(kid)) is not None:
            if now >= self._fresh_until and now >= self._ask_again_at and self._refreshing is None:
                # Behind the call's back: an auth that hangs must not hold up who has a good token.
                self._refreshing = asyncio.create_task(self._fetch(), name="refresh-keys")
                self._refreshing.add_done_callback(self._refreshed)
            return key
        if now >= self._ask_again_at:
            await self._fetch()
        key = self._keys.get(kid)
        if key is None and self._is_away:
            raise DependencyUnavailable
        return key

    async def ask_for_ever(self) -> None:
        """Ask again whenever the answer is too old, also when nobody asks for a key: one may be gone, or new."""
        while True:
            await asyncio.sleep(max(self._fresh_until, self._ask_again_at) - time.monotonic())
            try:
                await self._fetch()
            except Exception as error:  # noqa: BLE001  # who does not ask again keeps a key for ever
                self._ask_again_at = time.monotonic() + REFETCH_INTERVAL
                log.warning("keys of auth not usable", fault=describe_fault(error))

    async def close(self) -> None:
        """Ask no more."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait((self._refreshing,))

    def _refreshed(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled() and (error := task.exception()):
            log.warning("keys of auth not usable", fault=describe_fault(error))

    async def _fetch(self) -> None:
        """Ask auth, once for all who wait for it. The keys at hand stay good if it is away: nobody is signed out."""
        async with self._lock:
            if time.monotonic() < self._ask_again_at:
                return
            try:
                answer = await self._auth.GetJwks(auth_pb2.GetJwksRequest(), timeout=FETCH_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                self._outage.goes_on(code=error.code().name)
                self._is_away = True
                self._ask_again_at = time.monotonic() + (REFETCH_INTERVAL if self._keys else FIRST_FETCH_INTERVAL)
                return
            before = self._keys
            self._keys = {key.kid: Ed25519PublicKey.from_public_bytes(base64url.decode(key.x)) for key in answer.keys}
            self._is_away = False
            self._outage.is_over()
            now = time.monotonic()
            self._ask_again_at = now + REFETCH_INTERVAL
            self._fresh_until = now + answer.max_age.ToTimedelta().total_seconds()
            if before.keys() - self._keys.keys():
                self.on_gone()


@asynccontextmanager
async def open_remote_keys(auth: auth_grpc.AuthServiceStub) -> AsyncIterator[RemoteKeys]:
    """The keys of an auth service."""
    keys = RemoteKeys(auth)
    try:
        async with in_background(keys.ask_for_ever(), "ask-for-keys"):
            yield keys
    finally:
        await keys.close()
