"""The supervisor, with real processes that misbehave."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from services.cli import leash
from services.cli.readiness import serving
from services.cli.up import CannotStart, check_ports, take_data_folder
from services.kit.settings import SettingUnusable
from tests.cli.processes_seen import ROOT, eventually, gone, python

_FAKES = str(ROOT / "tests" / "cli" / "supervised_fakes.py")

_PARENT_OF_A_WATCHED = """
import os, subprocess, sys, time
child = '''
import os, sys
sys.path.insert(0, sys.argv[1])
import leash
leash.watch(int(sys.argv[2]), 9)
os.execv("/bin/sleep", ["sleep", "60"])
'''
print(subprocess.Popen([sys.executable, "-c", child, sys.argv[1], str(os.getpid())]).pid, flush=True)
time.sleep(60)
"""


class Suite:
    """Supervised stand-ins in a folder where they leave their traces."""

    def __init__(self, folder: Path, *processes: str) -> None:
        self.folder = folder
        self.process = python(_FAKES, str(folder), *processes)
        self.said = ""

    def until(self, words: str) -> None:
        """Read until the supervisor has said the words."""
        assert self.process.stdout
        while words not in self.said:
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line

    def pids(self, name: str) -> list[int]:
        return [int(pid) for pid in (self.folder / f"{name}.pids").read_text().split()]

    def all_pids(self) -> list[int]:
        return [int(pid) for file in self.folder.glob("*.pid*") for pid in file.read_text().split()]

    def end(self) -> int:
        """Wait for the end, make sure that no process is left, and return the exit code."""
        self.said += self.process.communicate(timeout=10)[0]
        assert gone(*self.all_pids())
        return self.process.returncode


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Callable[..., Suite]]:
    started = []

    def start(*processes: str) -> Suite:
        started.append(Suite(tmp_path, *processes))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def test_a_request_to_stop_ends_the_last_first_and_leaves_no_process(suite: Callable[..., Suite]) -> None:
    running = suite("database=good", ",", "service=good")
    running.until("all ready")
    os.killpg(running.process.pid, signal.SIGINT)  # Ctrl-C: the terminal sends it to the whole group
    assert running.end() == 0
    assert (running.folder / "ends").read_text().split() == ["service", "database"]
    assert "service | hello from service" in running.said


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_processes_that_do_not_want_to_end_do_so_within_5_s(suite: Callable[..., Suite], sign: signal.Signals) -> None:
    running = suite("database=good", ",", "stubborn=stubborn", "parent=parent")
    running.until("all ready")
    begin = time.monotonic()
    running.process.send_signal(sign)
    assert running.end() == 0
    assert time.monotonic() - begin < 5


def test_a_second_ctrl_c_kills_at_once(suite: Callable[..., Suite]) -> None:
    running = suite("stubborn=stubborn")
    running.until("all ready")
    running.process.send_signal(signal.SIGINT)
    running.until("stopping")
    time.sleep(0.4)  # sooner, it would be the same request, passed on by make
    begin = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    running.end()
    assert time.monotonic() - begin < 0.5


def test_kill_9_of_the_supervisor_ends_everything(suite: Callable[..., Suite]) -> None:
    running = suite("database=good", ",", "service=stubborn")
    running.until("all ready")
    running.process.kill()
    running.process.wait()
    eventually(lambda: gone(*running.pids("database"), *running.pids("service")))


def test_a_process_that_ends_is_started_again(suite: Callable[..., Suite]) -> None:
    running = suite("service=good", "other=good")
    running.until("all ready")
    os.kill(running.pids("service")[0], signal.SIGKILL)
    running.until("service was ended by SIGKILL: starting it again")
    running.until("service is back")
    assert len(running.pids("other")) == 1
    running.process.terminate()
    assert running.end() == 0


def test_what_never_gets_ready_ends_everything_with_its_exit_code(suite: Callable[..., Suite]) -> None:
    running = suite("database=good", ",", "service=exit7", "other=good")
    assert running.end() == 7
    assert "service ended with exit code 7 before it was ready: stopping everything" in running.said
    assert len(running.pids("service")) == 3


def test_wrong_settings_are_not_tried_twice(suite: Callable[..., Suite]) -> None:
    running = suite("service=exit2")
    assert running.end() == 2
    assert len(running.pids("service")) == 1


def test_a_reader_that_goes_away_does_not_keep_it_from_ending_in_order(suite: Callable[..., Suite]) -> None:
    running = suite("database=good", ",", "service=good")
    running.until("all ready")
    assert running.process.stdout
    running.process.stdout.close()
    running.process.terminate()
    assert running.process.wait(5) == 0
    assert (running.folder / "ends").read_text().split() == ["service", "database"]


def test_a_reader_that_reads_nothing_does_not_hold_it_up(suite: Callable[..., Suite]) -> None:
    running = suite("noisy=noisy", ",", "service=good")
    eventually((running.folder / "service.ready").exists)
    running.process.terminate()
    assert running.process.wait(5) == 0


def test_where_the_kernel_has_no_leash_a_watcher_ends_the_process() -> None:
    parent = python("-c", _PARENT_OF_A_WATCHED, str(Path(leash.__file__).parent))
    assert parent.stdout
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    assert not gone(pid)
    parent.kill()
    parent.wait()
    eventually(lambda: gone(pid), within=2)
    parent.communicate()


def test_a_taken_port_is_named_with_the_setting_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"port {port} for file is taken.*PARLEY_FILE_PORT"):
            check_ports("127.0.0.1", {"auth": 0, "agent": 0, "file": port})
    check_ports("127.0.0.1", {"file": port})


def test_two_services_on_one_port_and_a_strange_address_are_refused() -> None:
    with pytest.raises(SettingUnusable, match="PARLEY_CHAT_PORT and PARLEY_AUTH_PORT are both 50999"):
        check_ports("127.0.0.1", {"auth": 50999, "chat": 50999})
    with pytest.raises(SettingUnusable, match="PARLEY_LISTEN_HOST"):
        check_ports("192.0.2.1", {"auth": 50999})


def test_a_second_suite_in_a_folder_is_told_who_has_it(tmp_path: Path) -> None:
    lock = take_data_folder(tmp_path)
    assert stat.S_IMODE((tmp_path / "up.lock").stat().st_mode) == 0o600
    with pytest.raises(CannotStart, match=rf"already running here \(pid {os.getpid()}\)"):
        take_data_folder(tmp_path)
    lock.release()
    take_data_folder(tmp_path).release()


async def test_a_server_is_ready_when_its_health_check_says_so() -> None:
    servicer = health.HealthServicer()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    ready = serving("127.0.0.1", port)
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert not await ready()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert await ready()
    await server.stop(0)
    assert not await ready()


async def test_something_else_on_the_port_is_not_ready() -> None:
    with _answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert not await serving("127.0.0.1", port)()


@contextmanager
def _answering(answer: bytes) -> Iterator[int]:
    program = (
        "import socket, sys\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True)\n"
        f"connection, _ = server.accept(); connection.sendall({answer!r}); connection.close()"
    )
    process = subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE)
    assert process.stdout
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
