"""The wrapper around every RPC: whatever a handler does, the client gets a status and sees nothing of the inside."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2 as details_pb2
from grpc import StatusCode
from structlog.testing import capture_logs

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.calls import AccessNotStated, CallPolicy, Registration
from services.kit.errors import NotFound
from services.kit.methods import MethodMissing, compose
from services.kit.server import running
from tests.kit.conftest import (
    FILE_ID,
    FILE_SERVICE,
    KINDS,
    Start,
    call_of_kind,
    connect,
    file_servicer,
    service_of,
    service_settings,
)
from tests.support import Metadata, TestKeys, detail, raises_status, reason_of, status_of

SECRET = "the-secret-that-only-the-log-may-hold"


class FileNotFound(NotFound):
    """There is no such file."""

    reason = "FILE_NOT_FOUND"


def failing(name: str, error: Callable[[], BaseException]) -> Callable[..., Any]:
    """A method of one of KINDS that fails."""

    async def fail(_request: Any, _call: Any) -> None:
        raise error()

    async def fail_stream(_request: Any, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        yield pb2.DownloadFileResponse(file=pb2.File(id=FILE_ID))
        raise error()

    return fail_stream if name == "DownloadFile" else fail


async def logged(logs: Any, calls: int) -> None:
    """Wait until so many calls have their line in the log."""
    while sum(entry["event"] == "rpc" for entry in logs) < calls:  # noqa: ASYNC110  # structlog has no event for it
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", KINDS)
async def test_each_kind_of_call_is_answered(start: Start, token: Metadata, name: str) -> None:
    assert await call_of_kind(await start(), name, token)


@pytest.mark.parametrize("name", KINDS)
async def test_a_fault_reaches_the_client_as_an_incident_and_the_log_as_it_was(
    start: Start, token: Metadata, name: str
) -> None:
    channel = await start(**{name: failing(name, lambda: RuntimeError(SECRET))})
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_of_kind(channel, name, token)
    assert caught.value.code() == StatusCode.INTERNAL
    assert SECRET not in repr(caught.value)
    assert SECRET not in str(status_of(caught.value))
    (logged,) = [entry for entry in logs if entry["event"] == "incident"]
    assert SECRET in logged["fault"]
    assert caught.value.details() == f"internal error, incident {logged['incident']}"
    info = detail(status_of(caught.value), details_pb2.ErrorInfo)
    assert info is not None
    assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"incident": logged["incident"]})


@pytest.mark.parametrize("name", KINDS)
async def test_a_cancellation_that_nobody_asked_for_ends_the_call_with_a_status(
    start: Start, token: Metadata, name: str
) -> None:
    channel = await start(**{name: failing(name, asyncio.CancelledError)})
    async with asyncio.timeout(5):
        with raises_status(StatusCode.INTERNAL, "INTERNAL"):
            await call_of_kind(channel, name, token)


@pytest.mark.parametrize("name", KINDS)
async def test_a_failure_of_the_domain_keeps_its_code_reason_and_message(
    start: Start, token: Metadata, name: str
) -> None:
    channel = await start(**{name: failing(name, FileNotFound)})
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_of_kind(channel, name, token)
    assert caught.value.code() == StatusCode.NOT_FOUND
    assert caught.value.details() == "There is no such file."
    assert reason_of(status_of(caught.value)) == "FILE_NOT_FOUND"
    (line,) = [entry for entry in logs if entry["event"] == "rpc"]
    assert (line["code"], line["reason"]) == ("NOT_FOUND", "FILE_NOT_FOUND")
    assert line["method"] == f"parley.file.v1.FileService/{name}"


@pytest.mark.parametrize("name", KINDS)
async def test_bytes_that_are_no_message_are_malformed(start: Start, token: Metadata, name: str) -> None:
    channel = await start()
    untyped: Any = channel
    path = f"/parley.file.v1.FileService/{name}"
    # A field of type string, whose bytes are not UTF-8, and a length beyond the end.
    for raw in (b"\x0a\x02\xff\xfe", b"\x0a\x7f"):
        with raises_status(StatusCode.INVALID_ARGUMENT, "REQUEST_MALFORMED"):
            match name:
                case "GetFile":
                    await untyped.unary_unary(path)(raw, metadata=token, timeout=5)
                case "DownloadFile":
                    async for _ in untyped.unary_stream(path)(raw, metadata=token, timeout=5):
                        pass
                case "UploadFile":
                    await untyped.stream_unary(path)(iter([raw]), metadata=token, timeout=5)
                case _:
                    async for _ in untyped.stream_stream(path)(iter([raw]), metadata=token, timeout=5):
                        pass


@pytest.mark.parametrize("name", KINDS)
async def test_without_a_token_no_kind_of_call_reaches_its_handler(start: Start, name: str) -> None:
    reached = asyncio.Event()

    async def handle(_request: Any, _call: Any) -> None:
        reached.set()

    channel = await start(**{name: handle})
    with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"):
        await call_of_kind(channel, name)
    assert not reached.is_set()


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
@pytest.mark.parametrize("path", ["/parley.file.v1.FileService/Burn", "/no.such.Service/Get", "/", "nonsense"])
async def test_an_unknown_method_is_unimplemented_for_every_kind_of_call(start: Start, kind: str, path: str) -> None:
    channel = await start()
    multi = getattr(channel, kind)(path)
    call = multi(iter([b""]) if kind.startswith("stream") else b"", timeout=5)
    with raises_status(StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN"):
        if kind.endswith("stream"):
            async for _ in call:
                pass
        else:
            await call


async def test_a_unary_call_ends_at_the_servers_cap_whatever_deadline_it_brings(start: Start, token: Metadata) -> None:
    ended = asyncio.Event()

    async def sleep(_request: Any, _call: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    channel = await start(GetFile=sleep, unary_timeout=0.2)
    stub = pb2_grpc.FileServiceStub(channel)
    for timeout in (None, 30):
        ended.clear()
        async with asyncio.timeout(5):
            with raises_status(StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
                await stub.GetFile(pb2.GetFileRequest(id=FILE_ID), metadata=token, timeout=timeout)
        assert ended.is_set()


async def test_a_handlers_own_timeout_is_not_taken_for_the_calls_deadline(start: Start, token: Metadata) -> None:
    channel = await start(GetFile=failing("GetFile", TimeoutError))
    with raises_status(StatusCode.INTERNAL, "INTERNAL"):
        await call_of_kind(channel, "GetFile", token)


@pytest.mark.parametrize("name", KINDS)
async def test_a_client_that_cancels_ends_the_handler_and_is_no_incident(
    start: Start, token: Metadata, name: str
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(_request: Any, _call: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def wait_stream(_request: Any, call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        await wait(_request, call)
        yield pb2.DownloadFileResponse()

    channel = await start(**{name: wait_stream if name == "DownloadFile" else wait})
    with capture_logs() as logs:
        calling = asyncio.create_task(call_of_kind(channel, name, token))
        async with asyncio.timeout(5):
            await begun.wait()
            calling.cancel()
            await ended.wait()
            await logged(logs, 1)
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert [entry["code"] for entry in logs if entry["event"] == "rpc"] == ["CANCELLED"]
    assert not [entry for entry in logs if entry["event"] == "incident"]


async def test_a_client_that_goes_while_it_is_written_to_is_no_incident(keys: TestKeys, token: Metadata) -> None:
    async def pour(_request: Any, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        while True:
            yield pb2.DownloadFileResponse(chunk=pb2.DownloadChunk(data=bytes(100_000)))

    with capture_logs() as logs:
        async with running(service_of(keys, DownloadFile=pour), service_settings(), port=0) as address:
            for _ in range(10):
                async with connect(address) as channel:
                    call = pb2_grpc.FileServiceStub(channel).DownloadFile(
                        pb2.DownloadFileRequest(id=FILE_ID), metadata=token, timeout=10
                    )
                    assert await call.read()
                    # The channel closes with the call open.
            async with asyncio.timeout(5):
                await logged(logs, 10)
    assert {entry["code"] for entry in logs if entry["event"] == "rpc"} == {"CANCELLED"}
    assert not [entry for entry in logs if entry["event"] == "incident"]


async def test_no_call_beyond_the_limit_is_let_in(token: Metadata, start: Start) -> None:
    release, entered = asyncio.Event(), asyncio.Event()

    async def wait(request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
        entered.set()
        await release.wait()
        return pb2.GetFileResponse(file=pb2.File(id=request.id))

    channel = await start(GetFile=wait, max_unary_calls=1)
    first = asyncio.create_task(call_of_kind(channel, "GetFile", token))
    await entered.wait()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_of_kind(channel, "GetFile", token)
    assert caught.value.code() == StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(status_of(caught.value)) == "OVERLOADED"
    assert detail(status_of(caught.value), details_pb2.RetryInfo)
    release.set()
    assert (await first).file.id == FILE_ID
    assert (await call_of_kind(channel, "GetFile", token)).file.id == FILE_ID


async def test_no_stream_beyond_the_limit_is_let_in_and_unary_calls_still_are(token: Metadata, start: Start) -> None:
    entered = asyncio.Event()

    async def follow(request: pb2.DownloadFileRequest, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        yield pb2.DownloadFileResponse(file=pb2.File(id=request.id))
        entered.set()
        await asyncio.Event().wait()

    channel = await start(DownloadFile=follow, max_streams=1)
    first = asyncio.create_task(call_of_kind(channel, "DownloadFile", token))
    await asyncio.wait_for(entered.wait(), 5)
    for name in ("DownloadFile", "UploadFile", "UploadFiles"):
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"):
            await call_of_kind(channel, name, token)
    assert (await call_of_kind(channel, "GetFile", token)).file.id == FILE_ID
    first.cancel()


def test_a_service_with_a_method_that_states_no_access_does_not_start(keys: TestKeys) -> None:
    text = descriptor_pb2.FileDescriptorProto(name="tests/burn.proto", package="tests", syntax="proto3")
    text.message_type.add(name="Burn")
    text.service.add(name="BurnService").method.add(name="Burn", input_type=".tests.Burn", output_type=".tests.Burn")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text)
    service = pool.FindServiceByName("tests.BurnService")
    with pytest.raises(AccessNotStated, match=r"tests\.BurnService\.Burn"):
        compose(Registration(service, file_servicer(Burn=lambda: None)), CallPolicy(identity=service_of(keys).identity))


async def test_a_servicer_that_lacks_a_method_does_not_start(keys: TestKeys) -> None:
    servicer = file_servicer()
    del servicer.ListFiles
    service = service_of(keys)
    incomplete = type(service)(service.name, [Registration(FILE_SERVICE, servicer)], service.identity, service.is_ready)
    with pytest.raises(MethodMissing, match="ListFiles"):
        async with running(incomplete, service_settings(), port=0):
            pass
