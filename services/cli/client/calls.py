"""Calls of services, and what their failures say to whoever sits at the command line."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from services.cli.client.ending import Away, Failed
from services.kit.outgoing import CHANNEL_OPTIONS
from services.kit.status import reason_in

CONNECT_SECONDS = 3.0
CALL_SECONDS = 10.0
# What gRPC itself says when a server is not there, its time is over, or a stream was broken off.
LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a service that answers. Raises Away, at once where nobody listens."""
    async with grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        if not await answers(channel):
            raise Away(nothing_answers(target))
        yield channel


async def answers(channel: grpc.aio.Channel) -> bool:
    """Whether a gRPC server is at the other end; known at once where nobody listens."""
    waited_for = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while (state := channel.get_state(try_to_connect=True)) in waited_for:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return state == grpc.ChannelConnectivity.READY


@contextmanager
def failures(target: str) -> Iterator[None]:
    """What a call of the service at this address fails with is Failed."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise failure_of(error, target) from error


def failure_of(error: grpc.aio.AioRpcError, target: str) -> Failed:
    """What went wrong, as lines: field by field if it is fields that are wrong."""
    reason, code = reason_of(error), error.code()
    if not reason and code in LOST:
        return Away(nothing_answers(target) if code == grpc.StatusCode.UNAVAILABLE else f"{target} did not answer")
    violations = [f"{field.field} {field.description}" for field in _violations(error)]
    lines = violations or [f"{error.details() or code.name} ({reason or code.name})"]
    return Away(*lines) if code == grpc.StatusCode.UNAVAILABLE else Failed(*lines)


def nothing_answers(target: str) -> str:
    """What is said when there is no server at an address."""
    return f"nothing answers at {target}"


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in its ErrorInfo; empty if the failure is not of a service's making."""
    return reason_in(error.trailing_metadata())


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries an access token."""
    return (("authorization", f"Bearer {token}"),)


def _violations(error: grpc.aio.AioRpcError) -> list[details_pb2.BadRequest.FieldViolation]:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            bad = details_pb2.BadRequest()
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Unpack(bad):
                    return list(bad.field_violations)
    return []
