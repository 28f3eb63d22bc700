"""The words that servicers and the wrapper around their methods share.

A servicer's method sees a valid message and a `Call`, and knows nothing of gRPC:

    unary          async def GetAgent(self, request, call) -> response
    server stream  def DownloadFile(self, request, call) -> AsyncIterator of responses (an async generator); one that is
                   serialised already may come as bytes
    client stream  async def UploadFile(self, requests: Requests, call) -> response
    bidi           async def Connect(self, stream: Stream, call) -> None
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from parley.common.v1 import access_pb2
from services.kit.access import Caller
from services.kit.errors import DomainError, TokenExpired, TokenInvalid, TokenMissing
from services.kit.identity import Identity
from services.kit.ids import uuid7_hex
from services.kit.inflight import InFlight
from services.kit.messages import AnyDecoder
from services.kit.origin import Origin, origin_of

Access: TypeAlias = "access_pb2.Access.ValueType"
PUBLIC = access_pb2.ACCESS_PUBLIC
# Infrastructure whose protos are not ours and state no access.
PUBLIC_SERVICES = frozenset({"grpc.health.v1.Health"})

MAX_REQUEST_ID = 64
# A stream outlasts its token by this, so that who renews it in-band at the last moment is in time.
EXPIRY_GRACE = 2.0


class AccessNotStated(Exception):
    """An RPC has no access option, so nobody can tell who may call it."""


class Gate(Protocol):
    """What a call needs of its method: `services.kit.gate.Gate`."""

    @property
    def trusted_proxies(self) -> int:
        """How many proxies in front of the server tell the truth about who called them."""

    async def caller_of(self, token: str, call: "Call") -> Caller:
        """Who a token stands for. Raises what the verifier raises, and AccessDenied."""


class Call:
    """One RPC in progress: who calls, from where, for how long, and whether the server wants to stop."""

    __slots__ = (
        "_context",
        "_expiry",
        "_gate",
        "_inflight",
        "_metadata",
        "_request_id",
        "draining",
        "ending",
        "known_caller",
        "method",
        "streaming",
        "task",
        "token",
    )

    def __init__(self, method: str, context: Any, gate: Gate, inflight: InFlight, *, streaming: bool) -> None:
        self.method = method
        self.streaming = streaming
        self.draining = inflight.draining
        self.task: asyncio.Task[Any] | None = None
        self.ending: DomainError | None = None
        """What the call is being ended with from outside."""
        self.known_caller: Caller | None = None
        self.token: str | None = None
        """The access token that the call came with, or was last renewed with."""
        self._context = context
        self._gate = gate
        self._inflight = inflight
        self._metadata: Sequence[tuple[str, Any]] | None = None
        self._request_id: str | None = None
        self._expiry: asyncio.TimerHandle | None = None

    @property
    def caller(self) -> Caller:
        """Who calls. Only in RPCs whose access is not PUBLIC."""
        if self.known_caller is None:
            raise TokenMissing
        return self.known_caller

    @property
    def metadata(self) -> Sequence[tuple[str, Any]]:
        """What came with the call besides its messages."""
        if self._metadata is None:
            self._metadata = self._context.invocation_metadata() or ()
        return self._metadata

    @property
    def peer(self) -> str:
        """The address that the connection came from, as gRPC writes it, such as `ipv4:127.0.0.1:41234`."""
        return str(self._context.peer())

    @property
    def origin(self) -> Origin:
        """Where the call comes from."""
        return origin_of(self.peer, self.metadata, trusted_proxies=self._gate.trusted_proxies)

    @property
    def request_id(self) -> str:
        """What the call's log lines are found by, here and in the services that are called because of it.

        It is the `x-request-id` of the call's metadata if that is 1 to 64 printable ASCII characters, else a UUIDv7.
        """
        if self._request_id is None:
            for key, value in self.metadata:
                if (
                    key == "x-request-id"
                    and 0 < len(value) <= MAX_REQUEST_ID
                    and value.isascii()
                    and value.isprintable()
                ):
                    self._request_id = value
                    return self._request_id
            self._request_id = uuid7_hex()
        return self._request_id

    @property
    def is_over(self) -> bool:
        """Whether the handler has ended."""
        return self.task is None

    def time_remaining(self) -> float | None:
        """Seconds until the deadline that the call came with; None without one."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    def end(self, failure: DomainError) -> None:
        """End this call from outside with a failure. The first one is what the client sees."""
        if self.task is not None and self.ending is None:
            self.ending = failure
            # Not at once: a task that cancels itself would meet that only at its next wait, after its handler's end.
            asyncio.get_running_loop().call_soon(self._cut_off)

    def _cut_off(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def admit(self, caller: Caller, token: str) -> None:
        """The call goes on in the name of this caller: a stream for as long as its session and its token do."""
        previous = self.known_caller
        self.known_caller = caller
        self.token = token
        if self.streaming:
            if previous is not None:
                self._inflight.unbind(self, previous.session_id)
            self._inflight.bind(self, caller.session_id)
            self._expire_at(caller.expires_at)

    async def reauthenticate(self, token: str) -> Caller:
        """Go on with another token of the same user: until that one expires, and as long as its session lives.

        Raises TokenInvalid for another user's token, and whatever a call with the token would have met. The call then
        goes on as it was.
        """
        caller = await self._gate.caller_of(token, self)
        if caller.user_id != self.caller.user_id:
            raise TokenInvalid
        if not self.is_over:
            self.admit(caller, token)
        return caller

    async def verify_again(self) -> None:
        """End the call if its token is good no more."""
        if self.token is not None:
            try:
                await self._gate.caller_of(self.token, self)
            except DomainError as failure:
                self.end(failure)

    def release(self) -> None:
        """The call is over."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self.known_caller is not None:
            self._inflight.unbind(self, self.known_caller.session_id)

    def _expire_at(self, expires_at: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        left = expires_at - time.time() + EXPIRY_GRACE
        self._expiry = asyncio.get_running_loop().call_later(left, self.end, TokenExpired())


@dataclass(frozen=True)
class Registration:
    """A servicer, or the parts of one, and the service of the protos that it implements.

    `followers` names the server-streaming RPCs that last until the client has enough: they are ended with SHUTTING_DOWN
    as soon as the server drains, where others get the grace to end by themselves.
    """

    service: ServiceDescriptor
    servicer: object
    followers: frozenset[str] = frozenset()
    decoders: Mapping[str, AnyDecoder] = field(default_factory=dict)
    """For methods whose messages are decoded in a way of their own."""

    def behaviour(self, method: str) -> Callable[..., Any] | None:
        """What implements a method; None if nothing does."""
        parts = self.servicer if isinstance(self.servicer, tuple) else (self.servicer,)
        return next((getattr(part, method) for part in parts if hasattr(part, method)), None)


@dataclass(frozen=True)
class CallPolicy:
    """What the server allows its calls."""

    identity: Identity
    trusted_proxies: int = 0
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


def may_call(access: Access, caller: Caller, method: str) -> bool:
    """Whether a caller may call a method of this access; `method` is its full name."""
    if access == access_pb2.ACCESS_USER:
        return not caller.is_service
    if access == access_pb2.ACCESS_SERVICE:
        every = f"{method.rpartition('/')[0]}/*"
        return caller.is_service and (method in caller.methods or every in caller.methods)
    if access == access_pb2.ACCESS_ADMIN:
        return caller.is_admin
    return access == PUBLIC


def names_of(registrations: Sequence[Registration]) -> list[str]:
    """The full names of the services registered."""
    return [registration.service.full_name for registration in registrations]
