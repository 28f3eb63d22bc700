"""`parley serve file` as a process of its own, that can be killed and started again at its address."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cli.processes_seen import ROOT
from tests.cli.test_demo import free_ports

SERVICE = "parley.file.v1.FileService"
START_SECONDS = 30.0


class FileProcess:
    """The process."""

    def __init__(self, environment: dict[str, str], log: Path, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `until_serving` waits for it."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "services.cli", "serve", "file"]
            self._process = subprocess.Popen(command, env=self._environment, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def until_serving(self) -> None:
        """Wait until it can work."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            request = health_pb2.HealthCheckRequest(service=SERVICE)
            watch = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True, timeout=START_SECONDS)
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        break
            finally:
                watch.cancel()


@contextmanager
def file_process(database_url: str, folder: Path, auth_address: str, **settings: str) -> Iterator[FileProcess]:
    """The process, for the time of the block. Its secrets are those in the folder `data`, which auth shares."""
    (port,) = free_ports(1)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    ours = {
        "PARLEY_DATABASE_URL": database_url,
        "PARLEY_DATA_DIR": str(folder / "data"),
        "PARLEY_AUTH_TARGET": auth_address,
        "PARLEY_FILE_PORT": str(port),
        **settings,
    }
    process = FileProcess(inherited | ours, folder / "file.log", port)
    process.start()
    try:
        yield process
    finally:
        process.kill()
