"""An upload whose servers are killed again and again goes on each time, and leaves nothing behind but the file."""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from tests.auth.suite import sign_up, start
from tests.file.large_upload import CALL_SECONDS, LARGE, SIZE, Client, assert_no_orphan
from tests.file.steps import Behind
from tests.service_process import ServiceProcess, channel_to, service_process

pytestmark = pytest.mark.slow

KILLS, SPARE = 50, 2


async def send_until_killed(client: Client, server: ServiceProcess, until: int) -> int:
    """Go on up to an offset, kill the server a moment later, and return from where it went on."""
    async with channel_to(server.address) as channel:
        files = FileServiceStub(channel)
        kept = await client.persisted(files)
        offset = client.a_little_before(kept)
        passed = asyncio.Event()
        call = client.send(files, offset, max(until, offset), passed)
        await asyncio.wait_for(passed.wait(), CALL_SECONDS)
        await asyncio.sleep(client.random.uniform(0, 0.4))  # Not for an outcome: the kill comes at any moment.
        server.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    return kept


@pytest.mark.usefixtures("in_a_folder")
async def test_an_upload_whose_server_is_killed_50_times_is_the_same_file_and_leaves_no_orphan(
    database_url: str, tmp_path: Path, settings: Any, behind: Behind, run_jobs: Any
) -> None:
    points = sorted(random.Random(2).sample(range(1, SIZE), KILLS))
    async with AsyncExitStack() as stack:
        auth = await start(stack, open_auth, settings(AuthSettings, auth_target=""))
        client = Client((await sign_up(AuthServiceStub(auth.channel))).metadata, seed=3)

        def serve_another() -> ServiceProcess:
            name = f"file-{uuid4()}"
            process = service_process("file", database_url, tmp_path, name, auth_address=auth.address, **LARGE)
            return stack.enter_context(process)

        servers = [serve_another() for _ in range(1 + SPARE)]  # They start while others are killed.
        kept = []
        for point in points:
            server = servers.pop(0)
            await server.until_serving()
            kept.append(await send_until_killed(client, server, point))
            servers.append(serve_another())
        assert kept == sorted(kept), "what was kept was lost"
        assert len(set(kept)) > KILLS // 2
        assert kept[-1] > SIZE // 2
        await servers[0].until_serving()
        files = FileServiceStub(await stack.enter_async_context(channel_to(servers[0].address)))
        file = (await client.send(files, await client.persisted(files))).file
        await client.assert_stored(files, file)
    await assert_no_orphan(behind, run_jobs)
