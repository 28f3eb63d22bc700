"""Processes that are measured: started, watched until they can work, and ended again."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil

READY_SECONDS = 30.0
STOP_SECONDS = 10.0


class NotReady(Exception):
    """A process that was to be measured did not start."""


class Server:
    """A server in a process of its own."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.name = name
        self._process = process
        self._usage = psutil.Process(process.pid)
        self._log = log

    @classmethod
    @contextmanager
    def run(cls, name: str, arguments: list[str], environment: Mapping[str, str], folder: Path) -> Iterator[Self]:
        """Run `python <arguments>` for the time of the block, with its output in a file of this folder."""
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments], env={**os.environ, **environment}, stdout=output, stderr=output
            )
        try:
            yield cls(name, process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def cpu_seconds(self) -> float:
        """The processor time that it has used so far."""
        times = self._usage.cpu_times()
        return times.user + times.system

    def forget_peak(self) -> None:
        """Let `peak_bytes` begin anew, with what it has now."""
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # proc(5)

    def peak_bytes(self) -> int:
        """The most memory that it had resident since `forget_peak`."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Return once it works. Raises NotReady with the end of what it wrote."""
        ends_at = time.monotonic() + READY_SECONDS
        while not is_ready():
            if self._process.poll() is not None or time.monotonic() > ends_at:
                said = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
                raise NotReady(f"{self.name} did not start; it wrote:\n{said}")
            time.sleep(0.05)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
