"""Calls to other services: with a token, a deadline, and the request id of the call that they are made for.

    async with open_channel("file.internal:50053", identity=CALLER) as channel:
        files = FileServiceStub(channel)

What is done on behalf of a user is done with the token of that user's call (`CALLER`); what a service does by itself,
with one of its own account (`ServiceTokens`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

import grpc
from grpc_status import rpc_status

from services.kit.current_call import current_call
from services.kit.errors import DomainError, TokenExpired, TokenInvalid
from services.kit.service_tokens import ServiceTokens
from services.kit.status import reason_in, to_rpc_status

UNARY_TIMEOUT = 30.0
STREAM_TIMEOUT = 3600.0
TOKEN_TIMEOUT = 5.0
# By default gRPC waits up to two minutes before it tries again to reach a server that was away.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)


class NoCallInHand(Exception):
    """A call was to be made with its caller's token, by a task that handles no call or one that has none."""


class _TheCaller:
    """The user in whose call the work is done."""


CALLER: Final = _TheCaller()
Identity = ServiceTokens | _TheCaller


def open_channel(target: str, *, identity: Identity) -> grpc.aio.Channel:
    """A channel whose calls of all four kinds say who makes them. It is closed by `async with` or `close`.

    Each call gets the time that is left of the call in hand, and at most what it asks for; one that asks for nothing
    gets 30 seconds, a stream an hour. A unary call whose service token was refused as expired or invalid is made once
    more with a new one.
    """
    kinds = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS, interceptors=[kind(identity) for kind in kinds])


class _Outgoing:
    """What is the same for the four kinds of calls."""

    timeout = STREAM_TIMEOUT

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._looking: set[asyncio.Task[bool]] = set()

    async def _begin(
        self, proceed: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any, ends_at: float
    ) -> tuple[Any, str]:
        """Make the call; it, and the token that it was made with."""
        call = current_call()
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        if call is not None and metadata.get("x-request-id") is None:
            metadata["x-request-id"] = call.request_id
        token = await self._token(ends_at)
        metadata["authorization"] = f"Bearer {token}"
        prepared = details._replace(metadata=metadata, timeout=max(0.0, ends_at - monotonic()))
        return await proceed(prepared, request), token

    async def _token(self, ends_at: float) -> str:
        if isinstance(self._identity, ServiceTokens):
            try:
                return await self._identity.get(min(TOKEN_TIMEOUT, ends_at - monotonic()))
            except DomainError as failure:
                raise _as_if_answered(failure) from failure
        call = current_call()
        if call is None or call.token is None:
            raise NoCallInHand("there is no call in hand whose token could be passed on")
        return call.token

    def _ends_at(self, details: Any) -> float:
        """When the call is to be over, on the monotonic clock."""
        seconds: float = self.timeout if details.timeout is None else details.timeout
        call = current_call()
        left = None if call is None else call.time_remaining()
        return monotonic() + (seconds if left is None else min(seconds, left))

    async def _token_was_refused(self, call: Any, token: str) -> bool:
        """Whether a call has failed because of its token, which then is not used again."""
        if not isinstance(self._identity, ServiceTokens) or await call.code() != grpc.StatusCode.UNAUTHENTICATED:
            return False
        refused = reason_in(await call.trailing_metadata()) in (TokenExpired.reason, TokenInvalid.reason)
        if refused:
            self._identity.refuse(token)
        return refused

    async def _stream(self, proceed: Callable[[Any, Any], Awaitable[Any]], details: Any, request: Any) -> Any:
        """Begin a call that cannot be made again, and look at its end whether its token was refused."""
        call, token = await self._begin(proceed, details, request, self._ends_at(details))

        def look(_call: object) -> None:
            looking = asyncio.ensure_future(self._token_was_refused(call, token))
            self._looking.add(looking)
            looking.add_done_callback(self._looking.discard)

        if isinstance(self._identity, ServiceTokens):
            call.add_done_callback(look)
        return call


class _UnaryUnary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    timeout = UNARY_TIMEOUT

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make the call, and once more if its token was refused."""
        ends_at = self._ends_at(client_call_details)
        call, token = await self._begin(continuation, client_call_details, request, ends_at)
        try:
            refused = await self._token_was_refused(call, token)
        except asyncio.CancelledError:
            call.cancel()
            raise
        if refused:
            call, _ = await self._begin(continuation, client_call_details, request, ends_at)
        return call


class _UnaryStream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make the call."""
        return await self._stream(continuation, client_call_details, request)


class _StreamUnary(_Outgoing, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Make the call."""
        return await self._stream(continuation, client_call_details, request_iterator)


class _StreamStream(_Outgoing, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Make the call."""
        return await self._stream(continuation, client_call_details, request_iterator)


def _as_if_answered(failure: DomainError) -> grpc.aio.AioRpcError:
    """The error that a caller would see if a server had given this failure."""
    status = rpc_status.to_status(to_rpc_status(failure))
    trailing = grpc.aio.Metadata.from_tuple(status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)
