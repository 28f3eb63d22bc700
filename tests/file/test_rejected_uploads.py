"""Whoever uploads, by whatever style of client, is told why it was refused, and never INTERNAL in its place."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.settings import FileSettings
from services.file.wiring import open_file
from tests.cli.test_demo import free_ports
from tests.conftest import Serve
from tests.file.steps import DEADLINE, KIB, MIB, PART, Metadata, chunk, chunks, finish, some_bytes, start
from tests.file.test_upload_property import Writer
from tests.support import reason_of, status_of

TIMES = 100
DATA = some_bytes(3 * PART)
Requests = list[pb2.UploadFileRequest]

REFUSED: dict[str, tuple[Requests, str]] = {
    "too large": ([start(size_bytes=2 * MIB), *chunks(DATA), finish()], "FILE_TOO_LARGE"),
    "no quota": ([start(size_bytes=600 * KIB), *chunks(DATA), finish()], "QUOTA_EXCEEDED"),
    "a bad crc32c": ([start(), chunk(0, b"x", crc32c=1), *chunks(DATA), finish()], "CHUNK_CORRUPT"),
}


async def by_generator(address: str, metadata: Metadata, requests: Requests) -> str:
    async def generate() -> Any:
        for request in requests:
            yield request

    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await FileServiceStub(channel).UploadFile(generate(), metadata=metadata, timeout=DEADLINE)
    return reason_of(status_of(caught.value))


async def by_write(address: str, metadata: Metadata, requests: Requests, *, by_batch: bool = False) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        writer = Writer(FileServiceStub(channel), metadata, by_batch=by_batch)
        await writer.send(*requests)
        answer = await writer.outcome()
    assert not isinstance(answer, pb2.File)
    return answer[1]


async def by_batch(address: str, metadata: Metadata, requests: Requests) -> str:
    return await by_write(address, metadata, requests, by_batch=True)


async def by_threads(address: str, metadata: Metadata, requests: Requests) -> str:
    def send() -> str:
        with grpc.insecure_channel(address) as opened:
            channel: Any = opened  # the stub's types know the other kind only
            stub: Any = FileServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.UploadFile(iter(requests), metadata=metadata, timeout=DEADLINE)
        return reason_of(status_of(caught.value))

    return await asyncio.to_thread(send)


@pytest.fixture
async def address(serve: Serve, settings: Any) -> str:
    (port,) = free_ports(1)
    limits = {"file_max_bytes": MIB, "file_quota_bytes": 500 * KIB}
    await serve(open_file, settings(FileSettings, file_port=0, file_part_bytes=PART, **limits), port=port)
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("send", [by_generator, by_write, by_batch, by_threads])
async def test_a_refused_upload_is_told_why_every_time(
    address: str, as_user: Any, send: Callable[..., Awaitable[str]]
) -> None:
    for requests, reason in REFUSED.values():
        told = {await send(address, as_user("ann"), requests) for _ in range(TIMES)}
        assert told == {reason}


@pytest.mark.clients
async def test_a_client_in_go_is_told_why_every_time(address: str, as_user: Any, go_programs: Path) -> None:
    sizes = [f"-too-large={2 * MIB}", f"-over-quota={600 * KIB}"]
    client = await asyncio.create_subprocess_exec(
        go_programs / "refuseduploads",
        f"-address={address}",
        f"-times={TIMES}",
        *sizes,
        env={"PARLEY_TOKEN": dict(as_user("ann"))["authorization"].removeprefix("Bearer ")},
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await asyncio.wait_for(client.communicate(), 60)
    assert client.returncode == 0
    assert json.loads(told) == {kind: {reason: TIMES} for kind, (_, reason) in REFUSED.items()}
