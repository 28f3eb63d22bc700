"""What ends a session ends it in all services, open streams included, also when auth was away meanwhile."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import jwt
import pytest

from parley.agent.v1 import agent_service_pb2 as agent_pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import user_service_pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from parley.chat.v1 import chat_service_pb2 as chat_pb2
from parley.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from parley.file.v1 import file_service_pb2 as file_pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.auth.domain.revocations import Revoker
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.database import Database
from services.kit.ids import utc_now
from tests.auth.suite import Server, SignedIn, eventually, outcome, sign_in, sign_up, sign_up_admin, start
from tests.file.steps import some_bytes, upload, whole
from tests.support import Metadata, raises_status, reason_of, status_of

pytestmark = pytest.mark.slow

Code = grpc.StatusCode
REVOKED = "SESSION_REVOKED"
EVERYWHERE_WITHIN = 5.0


@dataclass
class Suite:
    """The four services, each with an identity of its own."""

    stack: AsyncExitStack
    auth_settings: AuthSettings
    auth_server: Server
    agents: AgentServiceStub
    files: FileServiceStub
    chat: ChatServiceStub

    @property
    def auth(self) -> AuthServiceStub:
        return AuthServiceStub(self.auth_server.channel)

    @property
    def users(self) -> UserServiceStub:
        return UserServiceStub(self.auth_server.channel)

    async def restart_auth(self) -> None:
        self.auth_server = await start(self.stack, open_auth, self.auth_settings, port=self.auth_server.port)

    async def outcomes_elsewhere(self, metadata: Metadata) -> list[str]:
        """What a call to each service but auth comes to."""
        said: Any = {"metadata": metadata, "timeout": 5}
        return [
            await outcome(self.agents.ListAgents(agent_pb2.ListAgentsRequest(), **said)),
            await outcome(self.files.ListFiles(file_pb2.ListFilesRequest(), **said)),
            await outcome(self.chat.ListRooms(chat_pb2.ListRoomsRequest(), **said)),
        ]

    async def outcomes(self, metadata: Metadata) -> list[str]:
        """What a call to each service comes to."""
        get_user = self.auth.GetCurrentUser(auth_pb2.GetCurrentUserRequest(), metadata=metadata, timeout=5)
        return [*await self.outcomes_elsewhere(metadata), await outcome(get_user)]

    async def refuse_everywhere(self, metadata: Metadata) -> None:
        """Wait until all services refuse these tokens."""

        async def refused() -> bool:
            return await self.outcomes(metadata) == [REVOKED] * 4

        await eventually(refused)


@pytest.fixture
async def suite(settings: Callable[..., Any]) -> AsyncIterator[Suite]:
    own: dict[str, Any] = {"database_pool_size": 4, "drain_seconds": 0.5}
    async with AsyncExitStack() as stack:
        auth_settings = settings(AuthSettings, **own)
        auth = await start(stack, open_auth, auth_settings)
        own["auth_target"] = auth.address
        agent, file, chat = await asyncio.gather(
            start(stack, open_agent, settings(AgentSettings, **own)),
            start(stack, open_file, settings(FileSettings, **own)),
            start(stack, open_chat, settings(ChatSettings, **own)),
        )
        yield Suite(
            stack,
            auth_settings,
            auth,
            AgentServiceStub(agent.channel),
            FileServiceStub(file.channel),
            ChatServiceStub(chat.channel),
        )


async def open_streams(suite: Suite, metadata: Metadata) -> list[Any]:
    """A Connect, a WatchRoom and a DownloadFile, each of which has given something, and goes on."""
    room = (await suite.chat.CreateRoom(chat_pb2.CreateRoomRequest(name="plans"), metadata=metadata)).room
    # More than gRPC takes for a client that does not read.
    stored = await upload(suite.files, metadata, whole(some_bytes(9 * 2**20), chunk_bytes=2**20))
    connect = suite.chat.Connect(metadata=metadata)
    await connect.write(chat_pb2.ConnectRequest(hello=chat_pb2.ConnectRequest.Hello()))
    watch = suite.chat.WatchRoom(chat_pb2.WatchRoomRequest(room_id=room.id), metadata=metadata)
    download = suite.files.DownloadFile(file_pb2.DownloadFileRequest(id=stored.id), metadata=metadata)
    streams: list[Any] = [connect, watch, download]
    for stream in streams:
        assert await stream.read() is not grpc.aio.EOF
    return streams


async def end_of(stream: Any) -> str:
    """The reason that a stream ends with."""
    async with asyncio.timeout(EVERYWHERE_WITHIN):
        try:
            while await stream.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {reason_of(status_of(error))}"
    return "OK"


async def end_session(suite: Suite, session: SignedIn) -> None:
    await suite.auth.Logout(auth_pb2.LogoutRequest(), metadata=session.metadata)


async def disable(suite: Suite, session: SignedIn) -> None:
    admin = await sign_up_admin(suite.auth, suite.auth_settings.database_url.get_secret_value())
    request = user_service_pb2.DisableUserRequest(user_id=session.user_id)
    await suite.users.DisableUser(request, metadata=admin.metadata)


@pytest.mark.parametrize("ending", [end_session, disable])
async def test_an_ended_session_is_refused_by_all_services_and_its_streams_end(
    suite: Suite, ending: Callable[[Suite, SignedIn], Any]
) -> None:
    session = await sign_up(suite.auth)
    bystander = await sign_up(suite.auth, "bob@example.com")
    assert await suite.outcomes(session.metadata) == ["OK"] * 4
    streams = await open_streams(suite, session.metadata)
    await ending(suite, session)
    began = time.monotonic()
    await suite.refuse_everywhere(session.metadata)
    assert [await end_of(stream) for stream in streams] == [f"UNAUTHENTICATED {REVOKED}"] * 3
    assert time.monotonic() - began < EVERYWHERE_WITHIN
    assert await suite.outcomes(bystander.metadata) == ["OK"] * 4


async def test_a_refresh_token_that_is_used_twice_ends_its_session_everywhere(suite: Suite) -> None:
    session = await sign_up(suite.auth)
    stolen = session.tokens.refresh_token
    await session.refresh()
    await session.refresh()
    assert await suite.outcomes(session.metadata) == ["OK"] * 4
    async with Database.open(suite.auth_settings) as database, database.transaction() as tx:
        await tx.exec_driver_sql("UPDATE auth.refresh_tokens SET exchange_time = exchange_time - interval '1 minute'")
    with raises_status(Code.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED"):
        await suite.auth.RefreshToken(auth_pb2.RefreshTokenRequest(refresh_token=stolen))
    began = time.monotonic()
    await suite.refuse_everywhere(session.metadata)
    assert time.monotonic() - began < EVERYWHERE_WITHIN


async def test_what_was_revoked_while_auth_was_dead_is_refused_once_it_is_back(
    suite: Suite, database: Database
) -> None:
    first = await sign_up(suite.auth)
    second, third = [await sign_in(suite.auth) for _ in range(2)]
    await suite.auth_server.stop()
    with auth_as_process(suite.auth_settings, suite.auth_server.port) as process:
        async with grpc.aio.insecure_channel(suite.auth_server.address) as channel:
            logout = auth_pb2.LogoutRequest()
            await AuthServiceStub(channel).Logout(logout, metadata=first.metadata, wait_for_ready=True, timeout=20)

        async def followed() -> bool:
            return await suite.outcomes_elsewhere(first.metadata) == [REVOKED] * 3

        await eventually(followed)
        process.kill()
    # Tokens whose sessions live stay good without auth.
    assert await suite.outcomes_elsewhere(third.metadata) == ["OK"] * 3
    # Another process of auth ends a session, and dies before it can tell of it.
    revoker = Revoker(lambda _: None, token_life=timedelta(minutes=15), clock=utc_now)
    async with database.transaction() as tx:
        await revoker.revoke(tx, [uuid4()], uuid4())
        await revoker.end_sessions(tx, UUID(second.user_id), but=session_id(third))
    await suite.restart_auth()
    began = time.monotonic()
    await suite.refuse_everywhere(second.metadata)
    assert time.monotonic() - began < EVERYWHERE_WITHIN
    assert await suite.outcomes(first.metadata) == [REVOKED] * 4
    assert await suite.outcomes(third.metadata) == ["OK"] * 4


@contextmanager
def auth_as_process(settings: AuthSettings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Auth as a process of its own, for the time of the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    own = {
        "PARLEY_DATABASE_URL": settings.database_url.get_secret_value(),
        "PARLEY_DATA_DIR": str(settings.data_dir),
        "PARLEY_AUTH_PORT": str(port),
    }
    process = subprocess.Popen([sys.executable, "-m", "services.auth"], env=inherited | own, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def session_id(session: SignedIn) -> UUID:
    return UUID(jwt.decode(session.tokens.access_token, options={"verify_signature": False})["sid"])
