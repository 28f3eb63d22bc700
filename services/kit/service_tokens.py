"""The access token of a service's own account at auth."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import Context

import grpc

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit.errors import DependencyUnavailable
from services.kit.outage import Outage

FETCH_TIMEOUT = 3.0
FIRST_RETRY = 0.2
LAST_RETRY = 1.0
# Auth takes down each attempt with a wrong secret. It makes the accounts of its own services a moment after its start.
LAST_RETRY_REFUSED = 10.0
RENEW_AFTER = 0.8
# However wrong the clock here is.
LEAST_LIFE = 1.0


class ServiceTokens:
    """A token that is asked for when first wanted, kept, and renewed at 80 % of its life, once for all who wait."""

    def __init__(self, auth: auth_grpc.AuthServiceStub, name: str, secret: str) -> None:
        self._auth = auth
        self._request = auth_pb2.IssueServiceTokenRequest(client_id=name, client_secret=secret)
        self._token: str | None = None
        self._good_until = 0.0
        self._refused = False
        self._wanted = asyncio.Event()
        self._answered: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._away = Outage("auth gives no service token", "auth gives service tokens again")
        self._misfit = Outage(
            "auth refuses the secret of this service's account: set PARLEY_SERVICE_SECRET as auth has it",
            "auth takes the secret of this service's account",
        )

    async def get(self, seconds: float) -> str:
        """The token. Raises DependencyUnavailable if none can be had in this time, or the secret is wrong."""
        if self._keeper is None:
            # In a context of its own: it outlasts the call in hand.
            self._keeper = asyncio.get_running_loop().create_task(
                self._keep_for_ever(), name="service-token", context=Context()
            )
        ends_at = time.monotonic() + seconds
        while self._token is None or time.time() >= self._good_until:
            left = ends_at - time.monotonic()
            if self._refused or left <= 0:
                raise DependencyUnavailable
            self._wanted.set()
            if self._answered is None:
                self._answered = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._answered,), timeout=left)
        return self._token

    def refuse(self, token: str) -> None:
        """A callee did not take this token: get another one, unless there is one already."""
        if token == self._token:
            self._token = None
            self._wanted.set()

    async def close(self) -> None:
        """Ask no more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))

    async def _keep_for_ever(self) -> None:
        pause = FIRST_RETRY
        while True:
            self._wanted.clear()
            try:
                answer = await self._auth.IssueServiceToken(self._request, timeout=FETCH_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                most = self._note_failure(error)
                self._tell()
                await asyncio.sleep(pause)
                pause = min(pause * 2, most)
                continue
            self._note_success(answer)
            self._tell()
            pause = FIRST_RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout((self._good_until - time.time()) * RENEW_AFTER):
                    await self._wanted.wait()

    def _note_success(self, answer: auth_pb2.IssueServiceTokenResponse) -> None:
        self._token = answer.access_token
        self._good_until = max(answer.expire_time.ToNanoseconds() / 1e9, time.time() + LEAST_LIFE)
        self._refused = False
        self._away.is_over()
        self._misfit.is_over()

    def _note_failure(self, error: grpc.aio.AioRpcError) -> float:
        """Tell the log; the longest pause before it is tried again."""
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            self._refused = True
            self._misfit.goes_on(account=self._request.client_id)
            return LAST_RETRY_REFUSED
        self._refused = False
        self._away.goes_on(account=self._request.client_id, code=error.code().name)
        return LAST_RETRY

    def _tell(self) -> None:
        if self._answered is not None and (self._token is not None or self._refused):
            self._answered.set_result(None)
            self._answered = None


@asynccontextmanager
async def open_service_tokens(auth: auth_grpc.AuthServiceStub, name: str, secret: str) -> AsyncIterator[ServiceTokens]:
    """The tokens of the account of this name."""
    tokens = ServiceTokens(auth, name, secret)
    try:
        yield tokens
    finally:
        await tokens.close()
