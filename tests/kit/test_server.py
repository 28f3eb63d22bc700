"""How a server starts, says how it is, and stops: without losing a call, and whatever its clients do."""

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.server import AddressUnusable, PortTaken, running, server_options
from tests.kit.conftest import (
    FILE_ID,
    HTTP2_PREFACE,
    KINDS,
    Start,
    call_of_kind,
    connect,
    http2_frame,
    read_http2_frame,
    service_of,
    service_settings,
    started,
)
from tests.support import Metadata, TestKeys, raises_status

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def health_request(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


class Stoppable:
    """A server that a test stops when it wants to."""

    def __init__(self, keys: TestKeys, drain_seconds: float = 2.0, **behaviour: Any) -> None:
        self._serving = running(service_of(keys, **behaviour), service_settings(drain_seconds=drain_seconds), port=0)

    async def __aenter__(self) -> Self:
        self.address = await self._serving.__aenter__()
        self.channel = connect(self.address)
        self.stopping: asyncio.Task[Any] | None = None
        return self

    def stop(self) -> "asyncio.Task[Any]":
        self.stopping = asyncio.create_task(self._serving.__aexit__(None, None, None))
        return self.stopping

    async def __aexit__(self, *_: object) -> None:
        await (self.stopping or self.stop())
        await self.channel.close()


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_unary_call_in_flight_ends_well_while_the_server_stops(keys: TestKeys, token: Metadata) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
        entered.set()
        await release.wait()
        return pb2.GetFileResponse(file=pb2.File(id=request.id))

    async with Stoppable(keys, GetFile=slow) as server:
        calling = asyncio.create_task(call_of_kind(server.channel, "GetFile", token))
        await asyncio.wait_for(entered.wait(), 5)
        stopping = server.stop()
        asyncio.get_running_loop().call_later(0.2, release.set)
        assert (await calling).file.id == FILE_ID
        await asyncio.wait_for(stopping, 1)


async def test_a_call_that_outlasts_the_grace_is_ended_and_its_cleanup_is_waited_for(
    keys: TestKeys, token: Metadata
) -> None:
    entered = asyncio.Event()
    cleaned_up = False

    async def endless(_request: Any, _call: Any) -> None:
        nonlocal cleaned_up
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.3)
            cleaned_up = True

    async with Stoppable(keys, drain_seconds=0.1, GetFile=endless) as server:
        calling = asyncio.create_task(call_of_kind(server.channel, "GetFile", token))
        await asyncio.wait_for(entered.wait(), 5)
        await server.stop()
        assert cleaned_up
        with pytest.raises(grpc.aio.AioRpcError):
            await calling


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_of_any_kind_that_outlasts_the_grace_is_told_to_go_elsewhere(
    keys: TestKeys, token: Metadata, kind: str
) -> None:
    entered = asyncio.Event()

    async def endless(_requests: Any, _call: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    async def endless_stream(requests: Any, call: Any) -> AsyncIterator[Any]:
        await endless(requests, call)
        yield

    behaviour = {kind: endless_stream if kind == "DownloadFile" else endless}
    async with Stoppable(keys, drain_seconds=1.0, **behaviour) as server:
        calling = asyncio.create_task(call_of_kind(server.channel, kind, token))
        await asyncio.wait_for(entered.wait(), 5)
        server.stop()
        with raises_status(StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
            await calling


@pytest.mark.parametrize("reading", [True, False])
async def test_a_follower_is_sent_elsewhere_at_once_when_the_server_stops(
    keys: TestKeys, token: Metadata, reading: bool
) -> None:
    async def follow(_request: Any, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        yield pb2.DownloadFileResponse(file=pb2.File(id=FILE_ID))
        while not reading:
            yield pb2.DownloadFileResponse(chunk=pb2.DownloadChunk(data=bytes(500_000)))
        await asyncio.Event().wait()

    async with Stoppable(keys, DownloadFile=follow) as server:
        stub = pb2_grpc.FileServiceStub(server.channel)
        call = stub.DownloadFile(pb2.DownloadFileRequest(id=FILE_ID), metadata=token, timeout=10)
        await call.read()
        if not reading:
            await asyncio.sleep(0.2)  # Until its windows are full, and the server's write waits.
        server.stop()
        async with asyncio.timeout(1):
            with raises_status(StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
                while await call.read() is not grpc.aio.EOF:
                    pass


async def test_a_bidirectional_handler_hears_of_draining_and_says_goodbye_itself(
    keys: TestKeys, token: Metadata
) -> None:
    async def talk(stream: Any, call: Any) -> None:
        await stream.requests.receive()
        await stream.send(pb2.UploadFilesResponse(key="hello"))
        await call.draining.wait()
        await stream.send(pb2.UploadFilesResponse(key="goodbye"))

    async with Stoppable(keys, UploadFiles=talk) as server:
        call: Any = pb2_grpc.FileServiceStub(server.channel).UploadFiles(metadata=token, timeout=10)
        await call.write(started("a"))
        assert (await call.read()).key == "hello"
        stopping = server.stop()
        assert (await call.read()).key == "goodbye"
        assert await call.code() == StatusCode.OK
        await asyncio.wait_for(stopping, 1)


async def test_a_health_watcher_is_told_not_serving_before_the_server_goes(keys: TestKeys) -> None:
    async with Stoppable(keys) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_request(), timeout=10)
        assert (await watch.read()).status == SERVING
        server.stop()
        assert (await watch.read()).status == NOT_SERVING
        with raises_status(StatusCode.UNAVAILABLE, "SHUTTING_DOWN"):
            await watch.read()


async def test_health_watchers_that_read_nothing_hold_up_neither_others_nor_the_end(keys: TestKeys) -> None:
    ready = True
    async with Stoppable(keys, drain_seconds=0.5, is_ready=lambda: ready) as server:
        deaf = [await _watch_with_closed_window(server.address) for _ in range(5)]
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_request(), timeout=10)
        assert (await watch.read()).status == SERVING
        ready = False
        assert (await asyncio.wait_for(watch.read(), 1)).status == NOT_SERVING
        watch.cancel()
        await asyncio.wait_for(server.stop(), 2)
        for writer in deaf:
            writer.close()


async def _watch_with_closed_window(address: str) -> asyncio.StreamWriter:
    """An HTTP/2 client that calls Health.Watch and lets the server send not one byte of an answer."""

    def header(name: str, value: str) -> bytes:
        """A literal without indexing (RFC 7541 §6.2.2)."""
        return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Watch"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(HTTP2_PREFACE)
    writer.write(http2_frame(4, 0, 0, struct.pack(">HI", 4, 0)))  # SETTINGS_INITIAL_WINDOW_SIZE = 0
    writer.write(http2_frame(1, 4, 1, b"".join(header(name, value) for name, value in headers)))
    writer.write(http2_frame(0, 1, 1, b"\0\0\0\0\0"))  # An empty message, the last.
    await writer.drain()
    async with asyncio.timeout(5):
        while True:  # Until the response's headers are here: the watch has begun.
            kind, _, stream, _ = await read_http2_frame(reader)
            if (kind, stream) == (1, 1):
                return writer


# --- health -----------------------------------------------------------------------------------------------------------


async def test_health_follows_whether_the_service_can_work(start: Start) -> None:
    ready = False
    health = health_pb2_grpc.HealthStub(await start(is_ready=lambda: ready))
    watch = health.Watch(health_request("parley.file.v1.FileService"), timeout=10)
    assert (await watch.read()).status == NOT_SERVING
    assert (await health.Check(health_request(), timeout=5)).status == NOT_SERVING
    ready = True
    assert (await asyncio.wait_for(watch.read(), 1)).status == SERVING
    assert (await health.Check(health_request("parley.file.v1.FileService"), timeout=5)).status == SERVING
    listed = (await health.List(health_pb2.HealthListRequest(), timeout=5)).statuses
    assert set(listed) == {"", "grpc.health.v1.Health", "parley.file.v1.FileService"}


async def test_health_of_an_unknown_service_is_not_found_and_to_a_watcher_unknown(start: Start) -> None:
    health = health_pb2_grpc.HealthStub(await start())
    with raises_status(StatusCode.NOT_FOUND, "SERVICE_UNKNOWN"):
        await health.Check(health_request("no.such.Service"), timeout=5)
    assert (await health.Watch(health_request("no.such.Service"), timeout=5).read()).status == SERVICE_UNKNOWN


async def test_health_takes_no_more_watchers_than_its_limit_and_others_again_when_they_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.health.MAX_WATCHERS", 2)
    health = health_pb2_grpc.HealthStub(await start())
    watches = [health.Watch(health_request(), timeout=10) for _ in range(2)]
    for watch in watches:
        await watch.read()
    with raises_status(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"):
        await health.Watch(health_request(), timeout=5).read()
    watches[0].cancel()
    async with asyncio.timeout(5):
        while True:
            try:
                assert (await health.Watch(health_request(), timeout=5).read()).status == SERVING
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)


# --- reflection, limits, ports ----------------------------------------------------------------------------------------


async def test_reflection_lists_the_services_and_describes_their_messages(start: Start) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(await start())
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="parley.file.v1.FileService"),
    ]
    listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(requests), timeout=5)]
    names = {service.name for service in listed.list_services_response.service}
    assert names == {
        "parley.file.v1.FileService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in described.file_descriptor_response.file_descriptor_proto
    ]
    assert "parley/file/v1/file_service.proto" in {file.name for file in files}


def test_the_intervals_of_pings_are_those_that_clients_are_told() -> None:
    assert dict(server_options(service_settings())).items() >= {
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),
    }


async def test_a_message_over_the_limit_is_refused_and_the_connection_goes_on(start: Start, token: Metadata) -> None:
    channel = await start()
    stub = pb2_grpc.FileServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetFile(pb2.GetFileRequest(id="x" * 5_000_000), metadata=token, timeout=5)
    assert caught.value.code() == StatusCode.RESOURCE_EXHAUSTED
    assert (await call_of_kind(channel, "GetFile", token)).file.id == FILE_ID


async def test_a_taken_port_is_an_error_and_takes_no_calls_from_who_has_it(keys: TestKeys) -> None:
    async with running(service_of(keys), service_settings(), port=0) as address:
        port = int(address.rsplit(":", 1)[1])
        with pytest.raises(PortTaken, match=str(port)):
            async with running(service_of(keys), service_settings(), port=port):
                pass


async def test_an_address_of_another_machine_is_an_error(keys: TestKeys) -> None:
    with pytest.raises(AddressUnusable, match=r"192\.0\.2\.1"):
        async with running(service_of(keys), service_settings(listen_host="192.0.2.1"), port=0):
            pass


async def test_an_ipv6_address_can_be_listened_on(keys: TestKeys, token: Metadata) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    settings = service_settings(listen_host="::1")
    async with running(service_of(keys), settings, port=0) as address, connect(address) as channel:
        assert (await call_of_kind(channel, "GetFile", token)).file.id == FILE_ID


# --- as a process -----------------------------------------------------------------------------------------------------

PROGRAM = """
from contextlib import asynccontextmanager
from services.kit.process import run_service
from services.kit.settings import ServiceSettings
from tests.kit.conftest import service_of
from tests.support import TestKeys

@asynccontextmanager
async def open_file(settings):
    yield service_of(TestKeys())

class FileSettings(ServiceSettings):
    file_port: int = 0

raise SystemExit(run_service("file", FileSettings, open_file))
"""


async def _process(**environment: str) -> asyncio.subprocess.Process:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        env={**inherited, "PARLEY_DATABASE_URL": "postgresql://nowhere/none", **environment},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


async def test_a_process_whose_port_is_taken_says_so_in_one_line_and_exits_with_3() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await _process(PARLEY_FILE_PORT=str(port))
        out, err = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, out) == (3, b"")
    assert err.decode().splitlines() == [
        f"parley: 127.0.0.1:{port} is taken: stop what listens there, or set PARLEY_FILE_PORT"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_stop_stops_in_order(number: signal.Signals) -> None:
    process = await _process()
    assert process.stderr
    async with asyncio.timeout(20):
        while b"listening" not in (line := await process.stderr.readline()):
            assert line, "it ended before it listened"
        process.send_signal(number)
        _, err = await process.communicate()
    assert process.returncode == 0
    assert b"stopped" in err
    assert b"Traceback" not in err
