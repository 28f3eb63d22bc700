"""The words that servicers and the wrapper around their methods share.

A servicer's method sees a valid message and a `Call`, and knows nothing of gRPC:

    unary          async def GetAgent(self, request, call) -> response
    server stream  def DownloadFile(self, request, call) -> AsyncIterator of responses (an async generator)
    client stream  async def UploadFile(self, requests: Requests, call) -> response
    bidi           async def Connect(self, stream: Stream, call) -> None
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from parley.common.v1 import access_pb2
from services.kit.access import Caller, TokenVerifier
from services.kit.errors import TokenMissing
from services.kit.inflight import InFlight

Access: TypeAlias = "access_pb2.Access.ValueType"
PUBLIC = access_pb2.ACCESS_PUBLIC
# Infrastructure whose protos are not ours and state no access.
PUBLIC_SERVICES = frozenset({"grpc.health.v1.Health"})


class AccessNotStated(Exception):
    """An RPC has no access option, so nobody can tell who may call it."""


class Call:
    """One RPC in progress: who calls, and whether the server wants to stop."""

    __slots__ = ("_context", "draining", "ended_by_drain", "known_caller", "method", "task")

    def __init__(self, method: str, context: Any, draining: asyncio.Event) -> None:
        self.method = method
        self.draining = draining
        self.task: asyncio.Task[Any] | None = None
        self.ended_by_drain = False
        self.known_caller: Caller | None = None
        self._context = context

    @property
    def caller(self) -> Caller:
        """Who calls. Only in RPCs whose access is not PUBLIC."""
        if self.known_caller is None:
            raise TokenMissing
        return self.known_caller

    @property
    def peer(self) -> str:
        """The address that the call came from, as gRPC writes it, such as `ipv4:127.0.0.1:41234`."""
        return str(self._context.peer())

    def end_for_drain(self) -> None:
        """End this call with SHUTTING_DOWN, so that its client connects to another server."""
        if self.task is not None:
            self.ended_by_drain = True
            self.task.cancel()


@dataclass(frozen=True)
class Registration:
    """A servicer, or the parts of one, and the service of the protos that it implements.

    `followers` names the server-streaming RPCs that last until the client has enough: they are ended with SHUTTING_DOWN
    as soon as the server drains, where others get the grace to end by themselves.
    """

    service: ServiceDescriptor
    servicer: object
    followers: frozenset[str] = frozenset()

    def behaviour(self, method: str) -> Callable[..., Any] | None:
        """What implements a method; None if nothing does."""
        parts = self.servicer if isinstance(self.servicer, tuple) else (self.servicer,)
        return next((getattr(part, method) for part in parts if hasattr(part, method)), None)


@dataclass(frozen=True)
class CallPolicy:
    """What the server allows its calls."""

    verifier: TokenVerifier
    unary_timeout: float = 30.0
    max_unary: int = 2048
    max_streams: int = 8192
    inflight: InFlight = field(default_factory=InFlight)


def access_of(method: MethodDescriptor) -> Access:
    """Who may call a method, from its option. Raises AccessNotStated."""
    if method.containing_service.full_name in PUBLIC_SERVICES:
        return PUBLIC
    access = method.GetOptions().Extensions[access_pb2.access]
    if access == access_pb2.ACCESS_UNSPECIFIED:
        raise AccessNotStated(f"{method.full_name} states no (parley.common.v1.access)")
    return access


def may_call(access: Access, caller: Caller) -> bool:
    """Whether a caller may make a call of this access."""
    if access == access_pb2.ACCESS_USER:
        return "service" not in caller.scopes
    if access == access_pb2.ACCESS_SERVICE:
        return "service" in caller.scopes
    if access == access_pb2.ACCESS_ADMIN:
        return "admin" in caller.scopes
    return access == PUBLIC


def names_of(registrations: Sequence[Registration]) -> list[str]:
    """The full names of the services registered."""
    return [registration.service.full_name for registration in registrations]
