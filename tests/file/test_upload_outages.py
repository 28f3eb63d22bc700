"""An upload whose PostgreSQL is killed again and again goes on each time, and leaves nothing behind but the file."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.migrations import migrate
from tests.auth.suite import sign_up, start
from tests.cli.processes_seen import ROOT
from tests.file.large_upload import LARGE, SIZE, Client, assert_no_orphan
from tests.file.steps import Behind
from tests.service_process import channel_to, service_process

pytestmark = pytest.mark.slow

KILLS = 50
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]
HOST = """
import sys
from pathlib import Path
from services.cli.embedded_postgres import EmbeddedPostgres
with EmbeddedPostgres.start(Path(sys.argv[1]), report=lambda line: None) as postgres:
    print(postgres.pid, postgres.url, flush=True)
    sys.stdin.read()
"""


class OwnPostgres:
    """A server of this test's own, which waits for the disk as Parley's own does."""

    def __init__(self, folder: Path) -> None:
        self._command = [sys.executable, "-c", HOST, str(folder)]
        self.start()

    def start(self) -> None:
        """Start it; it can be used on return."""
        self._host = subprocess.Popen(self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._host.stdout is not None
        pid, self.url = self._host.stdout.readline().split()
        self._pid = int(pid)

    def kill(self) -> None:
        """End it at once."""
        os.kill(self._pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End what started it, and it in order if it is there."""
        self._host.communicate(timeout=30)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    server = OwnPostgres(tmp_path / "own")
    yield server
    server.stop()


@pytest.fixture
def database_url(own_postgres: OwnPostgres) -> str:
    migrate(own_postgres.url)
    return own_postgres.url


async def finish_somehow(client: Client, files: FileServiceStub, kept: list[int]) -> pb2.File:
    """Send the file, and go on whenever the server says that it is not available."""
    while True:
        try:
            kept.append(await client.persisted(files))
            answer = await client.send_until_answered(files, client.a_little_before(kept[-1]))
        except grpc.aio.AioRpcError as error:
            answer = error.code().value[0]
        if isinstance(answer, pb2.File):
            return answer
        assert answer == UNAVAILABLE
        await asyncio.sleep(0.05)


async def kill_at(points: list[int], client: Client, server: OwnPostgres) -> None:
    """Kill PostgreSQL whenever so much was acknowledged, and start it again a moment later."""
    for point in points:
        while client.acknowledged < point:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.001)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(client.random.uniform(0, 1))
        await asyncio.to_thread(server.start)


@pytest.mark.usefixtures("in_a_folder")
async def test_an_upload_whose_postgresql_is_killed_50_times_is_the_same_file_and_leaves_no_orphan(
    own_postgres: OwnPostgres, database_url: str, tmp_path: Path, settings: Any, behind: Behind, run_jobs: Any
) -> None:
    points = sorted(random.Random(4).sample(range(1, SIZE), KILLS))
    async with AsyncExitStack() as stack:
        auth = await start(stack, open_auth, settings(AuthSettings, auth_target=""))
        client = Client((await sign_up(AuthServiceStub(auth.channel))).metadata, seed=5)
        server = stack.enter_context(
            service_process("file", database_url, tmp_path, auth_address=auth.address, **LARGE)
        )
        await server.until_serving()
        files = FileServiceStub(await stack.enter_async_context(channel_to(server.address)))
        kept: list[int] = []
        async with asyncio.timeout(400), asyncio.TaskGroup() as group:
            killing = group.create_task(kill_at(points, client, own_postgres))
            uploading = group.create_task(finish_somehow(client, files, kept))
        assert killing.done()
        assert kept == sorted(kept), "what was kept was lost"
        assert kept[-1] > SIZE // 2
        assert len(set(kept)) > KILLS // 2  # Some kills are close together.
        await client.assert_stored(files, uploading.result())
    await assert_no_orphan(behind, run_jobs)
