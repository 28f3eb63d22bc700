"""Services with identities of their own: auth's keys, its revocations and its audit log, over the wire."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.kit.database import libpq_url
from services.kit.server import Service, running
from services.kit.settings import ServiceSettings
from tests.auth.people import EMAIL, execute, login, refresh, register
from tests.support import Metadata, bearer, reason_of, status_of, until

DEADLINE = 20.0


@dataclass(frozen=True)
class Server:
    """A service that runs in this process."""

    address: str
    channel: grpc.aio.Channel
    stop: Callable[[], Any]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


async def start(
    stack: AsyncExitStack,
    wiring: Callable[[Any], AbstractAsyncContextManager[Service]],
    settings: ServiceSettings,
    port: int = 0,
) -> Server:
    """Serve until the stack ends or it is stopped; returns once the service is ready."""
    own = await stack.enter_async_context(AsyncExitStack())
    service = await own.enter_async_context(wiring(settings))
    address = await own.enter_async_context(running(service, settings, port=port))
    channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    await own.enter_async_context(channel)
    await until(lambda: service.is_ready() and service.identity.is_ready())
    return Server(address, channel, own.aclose)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask for a condition again and again, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.02)


async def outcome(call: Awaitable[Any]) -> str:
    """The reason that a call is refused for; "OK" when it is not."""
    try:
        await call
    except grpc.RpcError as error:
        return reason_of(status_of(error))
    return "OK"


@dataclass
class SignedIn:
    """A user's session, as its client has it."""

    auth: AuthServiceStub
    user_id: str
    tokens: pb2.TokenPair

    @property
    def metadata(self) -> Metadata:
        return bearer(self.tokens.access_token)

    async def refresh(self, auth: AuthServiceStub | None = None) -> Metadata:
        """Take the next tokens, from any server of auth."""
        self.tokens = (await refresh(auth or self.auth, self.tokens.refresh_token)).tokens
        return self.metadata


async def sign_up(auth: AuthServiceStub, email: str = EMAIL) -> SignedIn:
    """A new user with a session."""
    await register(auth, email)
    return await sign_in(auth, email)


async def sign_in(auth: AuthServiceStub, email: str = EMAIL) -> SignedIn:
    """Another session."""
    answer = await login(auth, email)
    return SignedIn(auth, answer.user.id, answer.tokens)


async def sign_up_admin(auth: AuthServiceStub, database_url: str, email: str = "root@example.com") -> SignedIn:
    """A new administrator with a session."""
    await register(auth, email)
    execute(libpq_url(database_url), "UPDATE auth.users SET is_admin = true WHERE email_key = %s", email)
    return await sign_in(auth, email)
