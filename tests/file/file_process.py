"""`parley serve file` as a process of its own, that can be killed and measured."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.agent.runs import channel_to
from tests.cli.processes_seen import ROOT
from tests.cli.test_demo import free_ports

SERVICE = "parley.file.v1.FileService"
START_SECONDS = 60.0


class FileProcess:
    """The process, and a stub of its service."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.files = FileServiceStub(channel)
        self._channel = channel
        self._process = process

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def peak_memory(self) -> int:
        """The most resident memory that it has had, in bytes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024

    async def until_serving(self) -> None:
        """Wait until it can work."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        watch = health_pb2_grpc.HealthStub(self._channel).Watch(request, wait_for_ready=True, timeout=START_SECONDS)
        try:
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        finally:
            watch.cancel()
        raise AssertionError("it never served")


def _spawn(environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", "serve", "file"],
            env=environment,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )


@asynccontextmanager
async def file_process(
    database_url: str, folder: Path, name: str, *, auth_address: str, **settings: str
) -> AsyncIterator[FileProcess]:
    """The process, perhaps still starting. Its secrets and files are those in the folder `data`, which auth shares."""
    (port,) = free_ports(1)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")}
    ours = {
        "PARLEY_DATABASE_URL": database_url,
        "PARLEY_DATA_DIR": str(folder / "data"),
        "PARLEY_AUTH_TARGET": auth_address,
        "PARLEY_FILE_PORT": str(port),
        "PARLEY_LOG_FORMAT": "json",
        **settings,
    }
    process = _spawn(inherited | ours, folder / f"{name}.log")
    try:
        address = f"127.0.0.1:{port}"
        async with channel_to(address) as channel:
            yield FileProcess(process, address, channel)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, 10)
        process.kill()
        process.wait()
