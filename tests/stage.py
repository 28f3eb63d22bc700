"""All four services on one database, as real servers; who calls them; and what belongs to one of the callers."""

import importlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psycopg
from argon2 import PasswordHasher
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.ids import uuid7
from services.kit.settings import ServiceSettings
from tests.cli.test_demo import free_ports
from tests.kit.authority import Authority
from tests.support import Metadata, TestKeys, bearer

DESCRIPTORS = Path(__file__).parent.parent / "gen" / "parley.binpb"
PASSWORD = "correct horse battery staple"
CALL_SECONDS = 20.0


def all_rpcs() -> dict[str, MethodDescriptor]:
    """Every RPC that the descriptors list, by its name, such as `parley.agent.v1.AgentService/GetAgent`."""
    found = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        for service in file.service:
            importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
            name = f"{file.package}.{service.name}"
            for method in descriptor_pool.Default().FindServiceByName(name).methods:
                found[f"{name}/{method.name}"] = method
    return found


@dataclass(frozen=True)
class Person:
    """A user with a session that lives."""

    id: UUID
    email: str
    session_id: UUID
    metadata: Metadata


class Stage:
    """The four services and the database behind them. Made by `open_stage`."""

    def __init__(self, channels: Mapping[str, grpc.aio.Channel], rows: psycopg.Connection[Any], keys: TestKeys) -> None:
        self._channels = channels
        self._rows = rows
        self._keys = keys
        self._rpcs = all_rpcs()

    def channel(self, rpc: str) -> grpc.aio.Channel:
        """Where an RPC is called."""
        return self._channels[rpc.split(".")[1]]

    async def call(self, rpc: str, requests: Sequence[Message], metadata: Metadata | None) -> Any:
        """The first answer to a call of any kind. Raises grpc.RpcError for the status of one that has none."""
        method = self._rpcs[rpc]
        raw = await first_answer(
            self.channel(rpc), method, [request.SerializeToString() for request in requests], metadata
        )
        return None if raw is grpc.aio.EOF else GetMessageClass(method.output_type).FromString(raw)

    def person(self, name: str, *, admin: bool = False) -> Person:
        """A new user with PASSWORD, and a session."""
        user_id = uuid7()
        email = f"{name}.{user_id.hex}@example.com"
        self.execute(
            "INSERT INTO auth.users"
            " (id, email, email_key, full_name, password_hash, create_time, update_time, is_admin)"
            " VALUES (%s, %s, %s, %s, %s, now(), now(), %s)",
            (user_id, email, email, name.title(), self._password_hash, admin),
        )
        session_id = self.session(user_id)
        token = self._keys.token(user_id, sid=str(session_id), scope="admin" if admin else "")
        return Person(user_id, email, session_id, bearer(token))

    def session(self, user_id: UUID, refresh_token: str | None = None) -> UUID:
        """A new session of a user, with the refresh token given, if any."""
        session_id = uuid7()
        self.execute(
            "INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time)"
            " VALUES (%s, %s, 'tests', now(), now() + interval '1 day')",
            (session_id, user_id),
        )
        if refresh_token is not None:
            self.execute(
                "INSERT INTO auth.refresh_tokens (token_hash, session_id, create_time) VALUES (%s, %s, now())",
                (sha256(refresh_token.encode()).digest(), session_id),
            )
        return session_id

    def service(self, *methods: str) -> Metadata:
        """A token of a new service account whose list has these methods."""
        account_id = uuid7()
        name = f"tests-{uuid.uuid4().hex}"
        self.execute(
            "INSERT INTO auth.service_accounts (id, name, methods, create_time) VALUES (%s, %s, %s, now())",
            (account_id, name, list(methods)),
        )
        return bearer(self._keys.token(account_id, **service_claims(account_id, name, methods)))

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Change the database behind the services' backs."""
        self._rows.execute(statement.encode(), values)

    @cached_property
    def _password_hash(self) -> str:
        return PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(PASSWORD)


def service_claims(account_id: UUID, name: str, methods: Sequence[str]) -> dict[str, Any]:
    """What distinguishes a service's token from a user's."""
    return {
        "sid": str(account_id),
        "client_id": name,
        "scope": "service",
        "methods": list(methods),
        "exp": int(time.time()) + 300,
    }


async def first_answer(
    channel: Any,  # its stubs know no calls of bytes
    method: MethodDescriptor,
    requests: Sequence[bytes],
    metadata: Metadata | None,
) -> Any:
    """The bytes of the first answer to a call of any kind; gRPC's EOF if it ends well without one."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    said: dict[str, Any] = {"metadata": metadata, "timeout": CALL_SECONDS}
    match bool(method.client_streaming), bool(method.server_streaming):
        case (False, False):
            return await channel.unary_unary(path)(requests[0], **said)
        case (True, False):
            return await channel.stream_unary(path)(iter(requests), **said)
        case (False, True):
            call = channel.unary_stream(path)(requests[0], **said)
        case _:
            call = channel.stream_stream(path)(iter(requests), **said)
    try:
        return await call.read()
    finally:
        call.cancel()


async def open_stage(serve: Any, settings: Callable[..., Any], rows: psycopg.Connection[Any], keys: TestKeys) -> Stage:
    """Start the four services; they end with the fixture `serve`.

    The file service asks the others with tokens of a stand-in for auth: those of the real one are not the tests'.
    """
    ports = dict(zip(("auth", "agent", "chat"), free_ports(3), strict=True))
    known = {f"{name}_target": f"127.0.0.1:{port}" for name, port in ports.items()}
    await serve(Authority(keys).opened, settings(ServiceSettings), port=ports["auth"])
    return Stage(
        {
            "auth": await serve(open_auth, settings(AuthSettings)),
            "agent": await serve(open_agent, settings(AgentSettings), port=ports["agent"]),
            "file": await serve(open_file, settings(FileSettings, **known)),
            "chat": await serve(open_chat, settings(ChatSettings), port=ports["chat"]),
        },
        rows,
        keys,
    )
