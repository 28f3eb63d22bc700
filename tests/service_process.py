"""One service as a process of its own, that can be killed, stopped for a while, started again, and measured."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.cli.processes_seen import ROOT
from tests.cli.test_demo import free_ports

START_SECONDS = 60.0
STOP_SECONDS = 10.0


class ServiceProcess:
    """The process. Started again it has the same address, and its log goes on."""

    def __init__(self, service: str, environment: Mapping[str, str], log: Path, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.log = log
        self._command = [sys.executable, "-m", "services.cli", "serve", service]
        self._environment = environment
        self.start()

    def start(self) -> None:
        """Start it; `until_serving` waits for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._seen = psutil.Process(self._process.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End it in order; if it does not want to, at once. Its exit code."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._process.kill()
        return self._process.wait()

    def memory(self) -> int:
        """Its resident memory now, in bytes."""
        return int(self._seen.memory_info().rss)

    def peak_memory(self) -> int:
        """The most resident memory that it has had, in bytes."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(peak) * 1024

    def cpu_seconds(self) -> float:
        """The time that it has had of processors."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    async def until_serving(self) -> None:
        """Wait until it can work."""
        async with channel_to(self.address) as channel:
            request = health_pb2.HealthCheckRequest()
            watch = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True, timeout=START_SECONDS)
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            finally:
                watch.cancel()
        raise AssertionError(f"it never served: {self.log.read_text()[-2000:]}")


@contextmanager
def service_process(
    service: str, database_url: str, folder: Path, name: str = "", *, auth_address: str = "", **settings: str
) -> Iterator[ServiceProcess]:
    """The process, for the time of the block. Its secrets and files are in the folder `data`, which others may share.

    Its log is `NAME.log` in the folder, or that of the service's name.
    """
    (port,) = free_ports(1)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PARLEY_")}
    ours = {
        "PARLEY_DATABASE_URL": database_url,
        "PARLEY_DATA_DIR": str(folder / "data"),
        f"PARLEY_{service.upper()}_PORT": str(port),
        "PARLEY_LOG_FORMAT": "json",  # As in production, and in half the time.
        **({"PARLEY_AUTH_TARGET": auth_address} if auth_address else {}),
        **settings,
    }
    process = ServiceProcess(service, inherited | ours, folder / f"{name or service}.log", port)
    try:
        yield process
    finally:
        process.stop()


def channel_to(address: str) -> grpc.aio.Channel:
    """A channel that shares its connection with no other."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
