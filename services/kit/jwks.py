"""The public keys of the auth service, as every other service gets them: GetJwks, kept, and asked for again."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit.errors import DependencyUnavailable

log = structlog.get_logger()

REFETCH_INTERVAL = 2.0
FETCH_TIMEOUT = 3.0


class RemoteKeys:
    """Keys by `kid`. An unknown `kid`, or an answer older than its `max_age`, asks auth again, at most every 2 s."""

    def __init__(self, auth: auth_grpc.AuthServiceStub) -> None:
        self._auth = auth
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._fetched_at = float("-inf")
        self._fresh_until = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """The key of this `kid`. Raises DependencyUnavailable while no keys could be had from auth yet."""
        now = time.monotonic()
        if (key := self._keys.get(kid)) is not None and now < self._fresh_until:
            return key
        if now - self._fetched_at >= REFETCH_INTERVAL:
            await self._fetch(now)
        return self._keys.get(kid)

    async def _fetch(self, asked_at: float) -> None:
        async with self._lock:
            if self._fetched_at >= asked_at:
                return
            try:
                answer = await self._auth.GetJwks(auth_pb2.GetJwksRequest(), timeout=FETCH_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                log.warning("keys of auth not reachable", code=error.code().name)
                if not self._keys:
                    raise DependencyUnavailable from error
                # The keys at hand stay good: a restart of auth must not sign everybody out.
                self._fetched_at = time.monotonic()
                return
            self._keys = {key.kid: Ed25519PublicKey.from_public_bytes(_unpadded(key.x)) for key in answer.keys}
            self._fetched_at = time.monotonic()
            self._fresh_until = self._fetched_at + answer.max_age.ToTimedelta().total_seconds()


@asynccontextmanager
async def open_remote_keys(auth_address: str) -> AsyncIterator[RemoteKeys]:
    """The keys of the auth service at this gRPC target."""
    async with grpc.aio.insecure_channel(auth_address) as channel:
        yield RemoteKeys(auth_grpc.AuthServiceStub(channel))


def _unpadded(value: str) -> bytes:
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
