"""`parley serve agent` as a process of its own, that can be killed, stopped for a while, and measured."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cli.processes_seen import ROOT
from tests.cli.test_demo import free_ports

SERVICES = ("parley.agent.v1.AgentService", "parley.agent.v1.ExecutionService")
START_SECONDS = 30.0


class AgentProcess:
    """The process."""

    def __init__(self, process: subprocess.Popen[bytes], address: str, log: Path) -> None:
        self.address = address
        self.log = log
        self._process = process
        self._seen = psutil.Process(process.pid)
        self.peak = 0

    def memory(self) -> int:
        """Its resident memory now, in bytes."""
        used = int(self._seen.memory_info().rss)
        self.peak = max(self.peak, used)
        return used

    def cpu_seconds(self) -> float:
        """The time that it has had of processors."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End it in order; its exit code."""
        self._process.terminate()
        return self._process.wait(10)


@contextmanager
def agent_process(
    database_url: str, folder: Path, name: str, *, auth_address: str, **settings: str
) -> Iterator[AgentProcess]:
    """The process, for the time of the block. Its secrets are those in the folder `data`, which auth shares."""
    (port,) = free_ports(1)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")}
    ours = {
        "PARLEY_DATABASE_URL": database_url,
        "PARLEY_DATA_DIR": str(folder / "data"),
        "PARLEY_AUTH_TARGET": auth_address,
        "PARLEY_AGENT_PORT": str(port),
        "PARLEY_LOG_FORMAT": "json",
        **settings,
    }
    log_path = folder / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "serve", "agent"],
            env=inherited | ours,
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        yield AgentProcess(process, f"127.0.0.1:{port}", log_path)
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


async def until_serving(channel: grpc.aio.Channel) -> None:
    """Wait until the server can work."""
    health = health_pb2_grpc.HealthStub(channel)
    for service in SERVICES:
        watch = health.Watch(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=START_SECONDS)
        try:
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    break
        finally:
            watch.cancel()
