"""Connections: the dead are found, the honest are left alone, and no client holds on to a server for ever."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.server import running
from tests.kit.conftest import (
    FILE_ID,
    HTTP2_PREFACE,
    Start,
    call_of_kind,
    connect,
    http2_frame,
    read_http2_frame,
    service_of,
    service_settings,
)
from tests.support import Metadata, TestKeys

SETTINGS, PING, GOAWAY = 4, 6, 7  # frames of RFC 9113 §6
ACK = 1


class Handler:
    """A GetFile that waits, and tells what becomes of it."""

    def __init__(self) -> None:
        self.running = 0
        self.begun, self.ended, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
        self.running += 1
        self.begun.set()
        try:
            await self.release.wait()
            return pb2.GetFileResponse(file=pb2.File(id=request.id))
        finally:
            self.running -= 1
            self.ended.set()


class Cable:
    """A TCP connection to a server that can be cut so that neither end hears of it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._tasks: set[asyncio.Task[None]] = set()
        self._whole = asyncio.Event()
        self._whole.set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._whole.clear()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(*self._address.split(":"))
        self._tasks |= {
            asyncio.create_task(self._pump(reader, to_writer)),
            asyncio.create_task(self._pump(to_reader, writer)),
        }

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


async def test_the_calls_of_a_client_whose_machine_is_gone_end_within_the_keepalive(
    keys: TestKeys, token: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.server.KEEPALIVE_AFTER", 300)
    monkeypatch.setattr("services.kit.server.KEEPALIVE_TIMEOUT", 300)
    handler = Handler()
    async with _serving(keys, GetFile=handler) as address, asyncio.timeout(15):
        cable = Cable(address)
        async with cable as front, connect(front) as channel:
            call = asyncio.create_task(call_of_kind(channel, "GetFile", token))
            await handler.begun.wait()
            cable.cut()
            cut = time.monotonic()
            await handler.ended.wait()
            assert time.monotonic() - cut < 5
            call.cancel()


async def test_a_client_may_ping_at_the_interval_that_is_allowed_with_or_without_a_call(
    keys: TestKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.server.LEAST_PING_INTERVAL", 20)
    async with _serving(keys) as address, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(HTTP2_PREFACE + http2_frame(SETTINGS, 0, 0, b""))
        for number in range(8):  # gRPC closes at the fourth that is too early.
            payload = number.to_bytes(8)
            writer.write(http2_frame(PING, 0, 0, payload))
            answer = None
            while answer != (PING, ACK, 0, payload):
                answer = await read_http2_frame(reader)
                assert answer[0] != GOAWAY, answer
            await asyncio.sleep(0.05)
        writer.close()


async def test_a_client_that_reads_nothing_is_let_go_when_its_connection_is_of_age(
    keys: TestKeys, token: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.server.AGE_GRACE", 500)
    stuck, ended = asyncio.Event(), asyncio.Event()

    async def pour(_request: Any, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        try:
            while True:
                stuck.set()
                yield pb2.DownloadFileResponse(chunk=pb2.DownloadChunk(data=bytes(1_000_000)))
        finally:
            ended.set()

    async with _serving(keys, max_connection_age=0.5, DownloadFile=pour) as address, connect(address) as channel:
        call = pb2_grpc.FileServiceStub(channel).DownloadFile(
            pb2.DownloadFileRequest(id=FILE_ID), metadata=token, timeout=60
        )
        async with asyncio.timeout(10):
            await stuck.wait()
            await ended.wait()
        call.cancel()


async def test_a_connection_of_age_is_replaced_without_its_client_noticing(start: Start, token: Metadata) -> None:
    peers: set[str] = set()

    async def get(request: pb2.GetFileRequest, call: Any) -> pb2.GetFileResponse:
        peers.add(call.peer)
        return pb2.GetFileResponse(file=pb2.File(id=request.id))

    channel = await start(GetFile=get, max_connection_age=0.3)
    async with asyncio.timeout(10):
        while len(peers) < 3:
            assert (await call_of_kind(channel, "GetFile", token)).file.id == FILE_ID


async def test_one_connection_has_no_more_calls_at_a_time_than_its_limit(start: Start, token: Metadata) -> None:
    handler = Handler()
    channel = await start(GetFile=handler, max_concurrent_streams=2)
    stub = pb2_grpc.FileServiceStub(channel)
    calls = [asyncio.create_task(call_of_kind(channel, "GetFile", token)) for _ in range(2)]
    async with asyncio.timeout(5):
        while handler.running < 2:  # noqa: ASYNC110  # what is looked at has no event
            await asyncio.sleep(0.01)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetFile(pb2.GetFileRequest(id=FILE_ID), metadata=token, timeout=0.5)
    assert caught.value.code() == StatusCode.DEADLINE_EXCEEDED
    assert handler.running == 2
    handler.release.set()
    await asyncio.gather(*calls)


async def test_buf_curl_calls_by_reflection_alone(keys: TestKeys, token: Metadata, tmp_path: Path) -> None:
    async with _serving(keys) as address:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("buf")),
            *("curl", "--protocol", "grpc", "--http2-prior-knowledge"),
            *("--header", f"{token[0][0]}: {token[0][1]}", "--data", f'{{"id": "{FILE_ID}"}}'),
            f"http://{address}/parley.file.v1.FileService/GetFile",
            cwd=tmp_path,
            env={"HOME": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, err
    assert FILE_ID in out.decode()


def _serving(keys: TestKeys, *, max_connection_age: float = 3600.0, **behaviour: Any) -> Any:
    settings = service_settings(drain_seconds=0.2, max_connection_age=max_connection_age)
    return running(service_of(keys, **behaviour), settings, port=0)
