"""What happens around every RPC, of all four kinds: composed once per method, when the server is built.

From the outside in: errors become statuses, one log line, access (the JWT), limits, decoding, validation, the deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message_factory import GetMessageClass
from grpc_status import rpc_status

from services.kit.calls import PUBLIC_SERVICES, Call, CallPolicy, Registration
from services.kit.current_call import CURRENT
from services.kit.errors import CallTooLong, DomainError, MethodUnknown, Overloaded, ShuttingDown
from services.kit.faults import incident_of
from services.kit.gate import Gate
from services.kit.messages import Decoder
from services.kit.status import code_of, to_rpc_status
from services.kit.streams import DRAIN_SECONDS, ENDED_DRAIN_SECONDS, Requests, Responses, Stream

log = structlog.get_logger()

Handler = Callable[..., Any]
if TYPE_CHECKING:  # generic in its type stub only
    RpcHandler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    RpcHandler = grpc.RpcMethodHandler
R = TypeVar("R")

# How long the news that a client is gone may take after the first read or write that fails because of it.
CLOSE_NEWS_SECONDS = 0.1


class MethodMissing(Exception):
    """The proto has an RPC that the servicer does not implement."""


def compose(registration: Registration, policy: CallPolicy) -> dict[str, RpcHandler]:
    """The handlers of all methods of a service, by full name such as `/parley.chat.v1.ChatService/Connect`.

    Raises AccessNotStated and MethodMissing, so that such a server never starts.
    """
    return {
        f"/{registration.service.full_name}/{method.name}": Method(registration, method, policy).handler()
        for method in registration.service.methods
    }


class Method:
    """One method with everything around it."""

    def __init__(self, registration: Registration, method: MethodDescriptor, policy: CallPolicy) -> None:
        behaviour = registration.behaviour(method.name)
        if behaviour is None:
            raise MethodMissing(f"{method.full_name} is not implemented by {type(registration.servicer).__name__}")
        self._behaviour = behaviour
        self._decoder = registration.decoders.get(method.name) or Decoder(GetMessageClass(method.input_type))
        self._name = f"{method.containing_service.full_name}/{method.name}"
        self._gate = Gate(method, self._name, policy)
        self._quiet = method.containing_service.full_name in PUBLIC_SERVICES
        self._follower = method.name in registration.followers
        self._kind = (bool(method.client_streaming), bool(method.server_streaming))
        self._streaming = any(self._kind)
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
            generator = self._behaviour(request, call)
            try:
                async for response in generator:
                    await responses.send(response)
            finally:
                await generator.aclose()

        responses: Responses[Any] = Responses(context)
        await self._run(context, answer, responses=responses)

    async def _stream_unary(self, _iterator: object, context: Any) -> bytes:
        requests: Requests[Any] = Requests(context, self._decoder)

        async def answer(call: Call) -> bytes:
            response = await self._behaviour(requests, call)
            return response.SerializeToString()  # type: ignore[no-any-return]  # a message of the method's type

        return await self._run(context, answer, requests=requests)

    async def _stream_stream(self, _iterator: object, context: Any) -> None:
        requests: Requests[Any] = Requests(context, self._decoder, answers=True)

        responses: Responses[Any] = Responses(context)

        async def answer(call: Call) -> None:
            await self._behaviour(Stream(requests, responses), call)

        await self._run(context, answer, requests=requests, responses=responses)

    async def _run(
        self,
        context: Any,
        answer: Callable[[Call], Awaitable[R]],
        *,
        requests: Requests[Any] | None = None,
        responses: Responses[Any] | None = None,
    ) -> R:
        started = perf_counter()
        call = Call(self._name, context, self._gate, self._inflight, streaming=self._streaming)
        self._inflight.enter(call, streaming=self._streaming, follower=self._follower)
        CURRENT.set(call)
        try:
            result = await self._answered(context, call, answer)
            if responses is not None:
                await responses.settle(DRAIN_SECONDS)
            self._log(started, call, "OK", None)
            return result  # noqa: TRY300  # the happy path reads first
        except DomainError as failure:
            self._log(started, call, code_of(failure).name, failure)
            seconds = DRAIN_SECONDS if call.ending is None else ENDED_DRAIN_SECONDS
            ends_at = monotonic() + seconds
            if responses is not None:
                await responses.settle(seconds)
            if requests is not None:
                await requests.drain(ends_at - monotonic())
            await abort(context, failure, seconds)
            raise
        except asyncio.CancelledError:
            self._log(started, call, "CANCELLED", None)
            raise
        finally:
            for direction in (requests, responses):
                if direction is not None:
                    direction.close()
            if self._streaming:
                call.release()
            self._inflight.leave(call, streaming=self._streaming)

    async def _answered(self, context: Any, call: Call, answer: Callable[[Call], Awaitable[R]]) -> R:
        """The handler's answer. Raises DomainError for whatever goes wrong, and CancelledError if the call is over."""
        try:
            if not self._gate.is_open:
                await self._gate.enter(call)
            self._admit(call)
            return await answer(call)
        except DomainError:
            raise
        except asyncio.CancelledError as error:
            failure = self._cancelled(call, error)
            if failure is None:
                raise
            raise failure from error
        except grpc.aio.BaseError as error:
            # gRPC could not read or write. Mostly the client is gone, and the news of it cancels this task in a moment.
            await asyncio.sleep(CLOSE_NEWS_SECONDS)
            if call.draining.is_set() or context.done():
                raise asyncio.CancelledError from error
            raise self._fault(error) from error
        except Exception as error:
            raise self._fault(error) from error
        finally:
            call.task = None  # From here on the status goes out, and nothing from outside must cut that.

    def _cancelled(self, call: Call, error: asyncio.CancelledError) -> DomainError | None:
        """What a CancelledError stands for: an end from outside, a fault, or (None) the end of the call."""
        task = asyncio.current_task()
        if task is not None and call.ending is not None:
            task.uncancel()
        if task is not None and task.cancelling():
            return None
        if call.ending is not None:
            return call.ending
        # Something inside was cancelled that nobody meant to cancel: without a status the client would hang.
        return self._fault(error)

    def _admit(self, call: Call) -> None:
        if self._follower and call.draining.is_set():
            raise ShuttingDown
        if self._quiet:
            return
        limit = self._policy.max_streams if self._streaming else self._policy.max_unary
        if self._inflight.count(streaming=self._streaming) > limit:
            raise Overloaded(retry_after=timedelta(seconds=1))

    def _fault(self, error: BaseException) -> DomainError:
        return incident_of(error, method=self._name)

    def _log(self, started: float, call: Call, code: str, failure: DomainError | None) -> None:
        if self._quiet:
            return
        fields: dict[str, Any] = {"method": self._name, "code": code, "ms": round((perf_counter() - started) * 1000, 2)}
        fields["request_id"] = call.request_id
        if call.known_caller is not None:
            fields["user_id"] = str(call.known_caller.user_id)
        if failure is not None:
            fields["reason"] = failure.reason
        log.info("rpc", **fields)


async def abort(context: Any, failure: DomainError, seconds: float = DRAIN_SECONDS) -> None:
    """End the call with a failure. Raises AbortError, as gRPC asks, or CancelledError if the call is over.

    The status stands behind what was written before, so that it waits while the client does not read. After these
    seconds it is left to gRPC, which sends it if the client reads on, and forgets the call when its connection ends.
    """
    try:
        async with asyncio.timeout(seconds):
            await context.abort_with_status(rpc_status.to_status(to_rpc_status(failure)))
    except grpc.aio.AbortError:
        raise
    except (grpc.aio.BaseError, TimeoutError) as error:
        raise asyncio.CancelledError from error


def unknown_method_handler() -> RpcHandler:
    """Answers METHOD_UNKNOWN to a call of any kind."""

    async def refuse(_iterator: object, context: Any) -> None:
        requests: Requests[Any] = Requests(context, Decoder(Empty), answers=True)
        try:
            await requests.drain()
            await abort(context, MethodUnknown())
        finally:
            requests.close()

    return grpc.stream_stream_rpc_method_handler(refuse)
