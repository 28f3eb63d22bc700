"""Calls of services, and what their failures say to whoever sits at the command line."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from parley.common.v1 import status_pb2 as parley_status_pb2
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
    status, code = _status_of(error), error.code()
    if not reason_of(error) and code in LOST:
        return Away(nothing_answers(target) if code == grpc.StatusCode.UNAVAILABLE else f"{target} did not answer")
    return _failure(code, error.details() or "", status)


def failure_in(status: parley_status_pb2.Status) -> Failed:
    """The same for a failure that was told inside a stream."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return _failure(code, status.message, status_pb2.Status.FromString(status.SerializeToString()))


def nothing_answers(target: str) -> str:
    """What is said when there is no server at an address."""
    return f"nothing answers at {target}"


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in its ErrorInfo; empty if the failure is not of a service's making."""
    return reason_in(error.trailing_metadata())


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that carries an access token."""
    return (("authorization", f"Bearer {token}"),)


def _failure(code: grpc.StatusCode, message: str, status: status_pb2.Status) -> Failed:
    info, bad = details_pb2.ErrorInfo(), details_pb2.BadRequest()
    quota, retry = details_pb2.QuotaFailure(), details_pb2.RetryInfo()
    retry_after = None
    for packed in status.details:
        if packed.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
        for detail in (info, bad, quota):
            packed.Unpack(detail)
    said = message or code.name
    if quota.violations:
        said = f"{said.removesuffix('.')}: {'; '.join(one.description for one in quota.violations)}"
    lines = [f"{field.field} {field.description}" for field in bad.field_violations]
    kind = Away if code == grpc.StatusCode.UNAVAILABLE else Failed
    return kind(*(lines or [f"{said} ({info.reason or code.name})"]), reason=str(info.reason), retry_after=retry_after)


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()
