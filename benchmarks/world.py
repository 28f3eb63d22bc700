"""What every scenario needs: a PostgreSQL of its own, auth, the agent service, and somebody with an agent."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.agent_calls import CALL_SECONDS, bearer
from benchmarks.measure import progress
from benchmarks.processes import Server, free_port, is_listening
from parley.agent.v1 import agent_service_pb2 as agent_pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.cli.embedded_postgres import EmbeddedPostgres
from services.migrations import migrate

POOL_SIZE = 10


@dataclass(frozen=True)
class User:
    """Somebody who is signed in and has an agent."""

    access_token: str
    agent: agent_pb2.Agent


@dataclass(frozen=True)
class World:
    """Services that run, and users of theirs."""

    folder: Path
    database_url: str
    agent_server: Server
    agent_address: str
    users: Sequence[User]
    public_key: str
    """The base64url of the raw Ed25519 key that access tokens are signed with."""


@contextmanager
def open_world(*, log_level: str, users: int = 1, max_agents: int = 1000) -> Iterator[World]:
    """All of it for the time of the block, in a temporary folder. Nothing listens beyond the loopback interface."""
    with TemporaryDirectory(prefix="parley-benchmarks-") as name:
        folder = Path(name)
        progress("starting PostgreSQL")
        with EmbeddedPostgres.start(folder / "data", report=progress) as postgres:
            migrate(postgres.url)
            auth_port, agent_port = free_port(), free_port()
            environment = auth_environment(postgres.url, folder, auth_port) | {
                "PARLEY_AGENT_PORT": str(agent_port),
                "PARLEY_AGENT_MAX_PER_USER": str(max_agents),
                "PARLEY_LOG_LEVEL": log_level,
            }
            with (
                running_service("auth", auth_port, environment, folder),
                running_service("agent", agent_port, environment, folder) as agent_server,
            ):
                address = f"127.0.0.1:{agent_port}"
                people, public_key = asyncio.run(_populate(f"127.0.0.1:{auth_port}", address, users))
                yield World(folder, postgres.url, agent_server, address, people, public_key)


@contextmanager
def running_service(name: str, port: int, environment: Mapping[str, str], folder: Path) -> Iterator[Server]:
    """One process of a service, for the time of the block; it can work when the block begins."""
    progress(f"starting {name}")
    with Server.run(name, ["-m", f"services.{name}"], environment, folder) as server:
        server.wait_until(lambda: is_serving(port))
        yield server


def auth_environment(database_url: str, folder: Path, auth_port: int) -> dict[str, str]:
    """What auth is started with, on this port."""
    return {
        "PARLEY_DATABASE_URL": database_url,
        "PARLEY_DATABASE_POOL_SIZE": str(POOL_SIZE),
        "PARLEY_DATA_DIR": str(folder / "data"),
        "PARLEY_LISTEN_HOST": "127.0.0.1",
        "PARLEY_AUTH_PORT": str(auth_port),
        "PARLEY_AUTH_ACCESS_TOKEN_SECONDS": "3600",
        "PARLEY_LOG_FORMAT": "json",
    }


def is_serving(port: int) -> bool:
    """Whether a service that listens there says that it can work."""

    async def ask() -> bool:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS
            )
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    try:
        return is_listening(port) and asyncio.run(ask())
    except grpc.aio.AioRpcError:
        return False


def a_draft() -> agent_pb2.CreateAgentRequest:
    """What the agents of a world are made of."""
    draft = agent_pb2.CreateAgentRequest(
        name="Scribe",
        description="Writes down what is said in the room, and sends it to everybody who was there.",
        model_name="echo-1",
        system_prompt="You write down what is said: who said it, what was decided, and what is to be done. " * 3,
    )
    draft.config.update({"temperature": 0.2, "max_tokens": 1024, "tools": ["search", "calendar"]})
    return draft


async def _populate(auth_address: str, agent_address: str, users: int) -> tuple[Sequence[User], str]:
    """So many users, and the key that verifies their tokens."""
    async with grpc.aio.insecure_channel(auth_address) as to_auth, grpc.aio.insecure_channel(agent_address) as to_agent:
        auth = AuthServiceStub(to_auth)
        people = [await _new_user(auth, AgentServiceStub(to_agent), number) for number in range(users)]
        keys = await auth.GetJwks(auth_pb2.GetJwksRequest(), timeout=CALL_SECONDS)
    return people, keys.keys[0].x


async def sign_up(auth: AuthServiceStub, number: int = 0) -> str:
    """The access token of a new user."""
    email, password = f"ann{number}@example.com", "correct horse battery staple"
    registration = auth_pb2.RegisterRequest(email=email, password=password, full_name="Ann")
    await auth.Register(registration, timeout=CALL_SECONDS, wait_for_ready=True)
    login = await auth.Login(auth_pb2.LoginRequest(email=email, password=password), timeout=CALL_SECONDS)
    return login.tokens.access_token


async def _new_user(auth: AuthServiceStub, agents: AgentServiceStub, number: int) -> User:
    token = await sign_up(auth, number)
    created = await agents.CreateAgent(
        a_draft(), metadata=(("authorization", bearer(token)),), timeout=CALL_SECONDS, wait_for_ready=True
    )
    return User(token, created.agent)
