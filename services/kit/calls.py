"""What happens around every RPC, of all four kinds: composed once per method, when the server is built.

From the outside in: errors become statuses, one log line, the deadline, access (the JWT), limits, decoding, validation.
A servicer's method sees a valid message and a `Call`, and knows nothing of gRPC:

    unary          async def GetAgent(self, request, call) -> response
    server stream  def DownloadFile(self, request, call) -> AsyncIterator of responses (an async generator)
    client stream  async def UploadFile(self, requests: Requests, call) -> response
    bidi           async def Connect(self, stream: Stream, call) -> None
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from parley.common.v1 import access_pb2
from services.kit.access import Caller, TokenVerifier, bearer_token
from services.kit.errors import (
    AccessDenied,
    CallTooLong,
    DomainError,
    InternalFault,
    MethodUnknown,
    Overloaded,
    ShuttingDown,
    TokenMissing,
)
from services.kit.faults import describe_fault
from services.kit.ids import uuid7
from services.kit.inflight import InFlight
from services.kit.messages import Decoder
from services.kit.status import code_of, to_rpc_status
from services.kit.streams import Requests, Stream

log = structlog.get_logger()

Handler = Callable[..., Any]
RpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Access: TypeAlias = "access_pb2.Access.ValueType"
R = TypeVar("R")
PUBLIC = access_pb2.ACCESS_PUBLIC
# Infrastructure whose protos are not ours and state no access.
PUBLIC_SERVICES = frozenset({"grpc.health.v1.Health"})


class AccessNotStated(Exception):
    """An RPC has no access option, so nobody can tell who may call it."""


class MethodMissing(Exception):
    """The proto has an RPC that the servicer does not implement."""


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
        if self.task is not None and not self.task.done():
            self.ended_by_drain = True
            self.task.cancel()


@dataclass(frozen=True)
class Registration:
    """A servicer and the service of the protos that it implements.

    `followers` names the server-streaming RPCs that last until the client has enough: they are ended with SHUTTING_DOWN
    as soon as the server drains, where others get the grace to end by themselves.
    """

    service: ServiceDescriptor
    servicer: object
    followers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CallPolicy:
    """What the server allows its calls."""

    verifier: TokenVerifier
    unary_timeout: float = 30.0
    max_unary: int = 2048
    max_streams: int = 8192
    inflight: InFlight = field(default_factory=InFlight)


def compose(registration: Registration, policy: CallPolicy) -> dict[str, RpcHandler]:
    """The handlers of all methods of a service, by full name such as `/parley.chat.v1.ChatService/Connect`.

    Raises AccessNotStated and MethodMissing, so that such a server never starts.
    """
    return {
        f"/{registration.service.full_name}/{method.name}": Method(registration, method, policy).handler()
        for method in registration.service.methods
    }


def access_of(method: MethodDescriptor) -> Access:
    """Who may call a method, from its option. Raises AccessNotStated."""
    if method.containing_service.full_name in PUBLIC_SERVICES:
        return PUBLIC
    access = method.GetOptions().Extensions[access_pb2.access]
    if access == access_pb2.ACCESS_UNSPECIFIED:
        raise AccessNotStated(f"{method.full_name} states no (parley.common.v1.access)")
    return access


class Method:
    """One method with everything around it."""

    def __init__(self, registration: Registration, method: MethodDescriptor, policy: CallPolicy) -> None:
        behaviour: Handler | None = getattr(registration.servicer, method.name, None)
        if behaviour is None:
            raise MethodMissing(f"{method.full_name} is not implemented by {type(registration.servicer).__name__}")
        self._behaviour = behaviour
        self._access = access_of(method)
        self._decoder = Decoder(GetMessageClass(method.input_type))
        self._name = f"{method.containing_service.full_name}/{method.name}"
        self._quiet = method.containing_service.full_name in PUBLIC_SERVICES
        self._follower = method.name in registration.followers
        self._kind = (bool(method.client_streaming), bool(method.server_streaming))
        self._policy = policy
        self._inflight = policy.inflight

    def handler(self) -> RpcHandler:
        """The gRPC handler. Bytes go in and out: decoding happens inside the wrapper, so its errors are ours."""
        match self._kind:
            case (False, False):
                return grpc.unary_unary_rpc_method_handler(self._unary_unary)
            case (False, True):
                return grpc.unary_stream_rpc_method_handler(self._unary_stream)
            case (True, False):
                return grpc.stream_unary_rpc_method_handler(self._stream_unary)
            case _:
                return grpc.stream_stream_rpc_method_handler(self._stream_stream)

    async def _unary_unary(self, raw: bytes, context: Any) -> bytes:
        async def answer(call: Call) -> bytes:
            request = self._decoder.decode(raw)
            remaining = context.time_remaining()
            if remaining is not None and remaining <= self._policy.unary_timeout:
                response = await self._behaviour(request, call)  # gRPC itself ends the call at its deadline.
            else:
                response = await self._capped(request, call)
            return response.SerializeToString()  # type: ignore[no-any-return]  # a message of the method's type

        return await self._run(context, answer)

    async def _capped(self, request: Any, call: Call) -> Any:
        cap = asyncio.timeout(self._policy.unary_timeout)
        try:
            async with cap:
                return await self._behaviour(request, call)
        except TimeoutError as error:
            if cap.expired():
                raise CallTooLong from error
            raise

    async def _unary_stream(self, raw: bytes, context: Any) -> None:
        async def answer(call: Call) -> None:
            request = self._decoder.decode(raw)
            responses = self._behaviour(request, call)
            try:
                async for response in responses:
                    await context.write(response if type(response) is bytes else response.SerializeToString())
            finally:
                await responses.aclose()

        await self._run(context, answer)

    async def _stream_unary(self, _iterator: object, context: Any) -> bytes:
        requests = Requests(context, self._decoder)

        async def answer(call: Call) -> bytes:
            response = await self._behaviour(requests, call)
            return response.SerializeToString()  # type: ignore[no-any-return]  # a message of the method's type

        return await self._run(context, answer, requests)

    async def _stream_stream(self, _iterator: object, context: Any) -> None:
        requests = Requests(context, self._decoder, answers=True)

        async def answer(call: Call) -> None:
            await self._behaviour(Stream(context, requests), call)

        await self._run(context, answer, requests)

    async def _run(
        self, context: Any, answer: Callable[[Call], Awaitable[R]], requests: Requests[Any] | None = None
    ) -> R:
        started = perf_counter()
        call = Call(self._name, context, self._inflight.draining)
        streaming = self._kind != (False, False)
        self._inflight.enter(call, streaming=streaming, follower=self._follower)
        failure: DomainError
        try:
            if self._access != PUBLIC:
                call.known_caller = await self._authenticated(context)
            self._admit(streaming)
            result = await answer(call)
            self._log(started, call, "OK", None)
            return result  # noqa: TRY300  # the happy path reads first
        except DomainError as error:
            failure = error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if call.ended_by_drain and task is not None:
                task.uncancel()
                failure = ShuttingDown()
            elif task is not None and task.cancelling():
                self._log(started, call, "CANCELLED", None)
                raise
            else:  # Something inside was cancelled that nobody meant to cancel: without a status the client would hang.
                failure = self._fault(error)
        except grpc.aio.UsageError:
            # gRPC's word for a call that is over while the handler still answers.
            self._log(started, call, "CANCELLED", None)
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001  # the outermost wrapper: whatever it is becomes an incident
            failure = self._fault(error)
        finally:
            self._inflight.leave(call, streaming=streaming)
        if requests is not None:
            await requests.drain()
        self._log(started, call, code_of(failure).name, failure)
        await context.abort_with_status(rpc_status.to_status(to_rpc_status(failure)))
        raise failure

    async def _authenticated(self, context: Any) -> Caller:
        token = bearer_token(context.invocation_metadata())
        verifier = self._policy.verifier
        caller = verifier.recall(token) or await verifier.verify(token)
        if not may_call(self._access, caller):
            raise AccessDenied
        return caller

    def _admit(self, streaming: bool) -> None:
        if self._quiet:
            return
        limit = self._policy.max_streams if streaming else self._policy.max_unary
        if self._inflight.count(streaming=streaming) > limit:
            raise Overloaded(retry_after=timedelta(seconds=1))

    def _fault(self, error: BaseException) -> DomainError:
        incident = uuid7().hex
        log.error("incident", incident=incident, method=self._name, fault=describe_fault(error))
        return InternalFault(f"internal error, incident {incident}", metadata={"incident": incident})

    def _log(self, started: float, call: Call, code: str, failure: DomainError | None) -> None:
        if self._quiet:
            return
        fields: dict[str, Any] = {"method": self._name, "code": code, "ms": round((perf_counter() - started) * 1000, 2)}
        if call.known_caller is not None:
            fields["user_id"] = str(call.known_caller.user_id)
        if failure is not None:
            fields["reason"] = failure.reason
        log.info("rpc", **fields)


def may_call(access: Access, caller: Caller) -> bool:
    """Whether a caller may make a call of this access."""
    if access == access_pb2.ACCESS_USER:
        return "service" not in caller.scopes
    if access == access_pb2.ACCESS_SERVICE:
        return "service" in caller.scopes
    if access == access_pb2.ACCESS_ADMIN:
        return "admin" in caller.scopes
    return access == PUBLIC


def unknown_method_handler() -> RpcHandler:
    """Answers METHOD_UNKNOWN to a call of any kind."""

    async def refuse(_iterator: object, context: Any) -> None:
        await context.abort_with_status(rpc_status.to_status(to_rpc_status(MethodUnknown())))

    return grpc.stream_stream_rpc_method_handler(refuse)


def names_of(registrations: Sequence[Registration]) -> list[str]:
    """The full names of the services registered."""
    return [registration.service.full_name for registration in registrations]
