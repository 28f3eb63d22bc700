"""The four services as a caller sees them: an address and a stub each; and the people who call."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.cli.client.calls import answers, nothing_answers
from services.cli.demo.steps import NotRunning

CALL_SECONDS = 10.0
STREAM_SECONDS = 60.0

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Addresses:
    """Where the services listen."""

    auth: str
    agent: str
    file: str
    chat: str

    @classmethod
    def on(cls, host: str, *, auth: int, agent: int, file: int, chat: int) -> Self:
        """The addresses on one host."""
        # A suite that listens on every address of its machine is called at this one.
        name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104  # recognised, not listened on
        return cls(f"{name}:{auth}", f"{name}:{agent}", f"{name}:{file}", f"{name}:{chat}")


@dataclass
class Person:
    """Somebody who uses the suite."""

    name: str
    email: str
    password: str = field(repr=False)
    id: str = ""
    refresh_token: str = field(default="", repr=False)
    metadata: Metadata = field(default=(), repr=False)

    @classmethod
    def new(cls, name: str, run: str) -> Self:
        """A person of this run, whom no other run knows."""
        return cls(name, f"{name.lower()}.{run}@demo.example.com", f"{uuid.uuid4()}")

    def on_another_device(self) -> Self:
        """The same person, not signed in."""
        return replace(self, refresh_token="", metadata=())


@dataclass(frozen=True)
class Suite:
    """Stubs of the four services."""

    auth: AuthServiceStub
    agent: AgentServiceStub
    executions: ExecutionServiceStub
    file: FileServiceStub
    chat: ChatServiceStub

    @classmethod
    @asynccontextmanager
    async def connect(cls, addresses: Addresses) -> AsyncIterator[Self]:
        """Connect to the services. Raises NotRunning, naming the address at which nothing answers."""
        async with AsyncExitStack() as stack:

            async def channel(address: str) -> grpc.aio.Channel:
                opened = await stack.enter_async_context(grpc.aio.insecure_channel(address))
                if not await answers(opened):
                    raise NotRunning(f"{nothing_answers(address)}; start it with `make up`")
                return opened

            auth, agent = await channel(addresses.auth), await channel(addresses.agent)
            yield cls(
                AuthServiceStub(auth),
                AgentServiceStub(agent),
                ExecutionServiceStub(agent),
                FileServiceStub(await channel(addresses.file)),
                ChatServiceStub(await channel(addresses.chat)),
            )


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response], request: Request, person: Person | None = None
) -> Response:
    """A unary call with a deadline, on behalf of a person."""
    response: Any = await method(request, metadata=person.metadata if person else None, timeout=CALL_SECONDS)
    return response  # type: ignore[no-any-return]  # the stub's type is lost in await
