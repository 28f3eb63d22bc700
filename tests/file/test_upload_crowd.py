"""Many uploads at once: all of them are stored, in bounded memory."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from tests.auth.suite import sign_up, start
from tests.file.steps import KIB, MIB, Metadata, chunk, finish, some_bytes
from tests.file.steps import start as begin
from tests.service_process import channel_to, service_process

pytestmark = pytest.mark.slow

UPLOADS, SIZE, CHUNK = 200, 8 * MIB, MIB
FIRST = 64 * KIB
CONNECTIONS = 4
"""A connection takes 100 calls at a time."""
CALL_SECONDS = 240.0
MOST_MEMORY = 600 * MIB
SHARED = some_bytes(SIZE - FIRST)


async def upload(files: FileServiceStub, metadata: Metadata, number: int, all_begun: asyncio.Barrier) -> None:
    """One file whose first chunk no other has; it must be answered with the hash of what was sent."""
    first = some_bytes(FIRST, seed=number)
    hashed = hashlib.sha256(first)
    hashed.update(SHARED)

    async def requests() -> AsyncIterator[pb2.UploadFileRequest]:
        yield begin(f"{number}.bin", size_bytes=SIZE)
        yield chunk(0, first)
        await all_begun.wait()
        for at in range(0, len(SHARED), CHUNK):
            yield chunk(FIRST + at, SHARED[at : at + CHUNK])
        yield finish(size_bytes=SIZE)

    file = (await files.UploadFile(requests(), metadata=metadata, timeout=CALL_SECONDS)).file
    assert (file.size_bytes, file.sha256) == (SIZE, hashed.digest())


async def test_200_uploads_of_8_mib_at_once_all_succeed_in_less_than_600_mib_of_memory(
    database_url: str, tmp_path: Path, settings: Any
) -> None:
    async with AsyncExitStack() as stack:
        auth = await start(stack, open_auth, settings(AuthSettings, auth_target=""))
        metadata = (await sign_up(AuthServiceStub(auth.channel))).metadata
        server = stack.enter_context(service_process("file", database_url, tmp_path, auth_address=auth.address))
        await server.until_serving()
        channels = [await stack.enter_async_context(channel_to(server.address)) for _ in range(CONNECTIONS)]
        all_begun = asyncio.Barrier(UPLOADS)
        async with asyncio.TaskGroup() as group:
            for number in range(UPLOADS):
                group.create_task(upload(FileServiceStub(channels[number % CONNECTIONS]), metadata, number, all_begun))
        peak = server.peak_memory()
        print(f"peak memory: {peak / MIB:.0f} MiB")  # noqa: T201  # the figure is to be seen, too
        assert peak < MOST_MEMORY
