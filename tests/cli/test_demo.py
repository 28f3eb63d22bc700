"""The whole suite as real processes, and the demo against it over the network."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psycopg
import pytest

from services.cli.installation import running_database_url
from services.migrations.roles import ROLES
from tests.cli.processes_seen import ROOT, eventually

pytestmark = pytest.mark.slow

SERVICES = ("auth", "agent", "file", "chat")
PARLEY = (sys.executable, "-m", "services.cli")
START_SECONDS = 60
STOP_SECONDS = 5


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in taken]


def environment(data_dir: Path, **values: str) -> dict[str, str]:
    """What a suite with its data in this folder, on ports of its own, is started with, and its demo."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    ports = {f"PARLEY_{name.upper()}_PORT": str(port) for name, port in zip(SERVICES, free_ports(4), strict=True)}
    return inherited | ports | {"PARLEY_DATA_DIR": str(data_dir)} | values


class Suite:
    """`parley up`, until the end of the block."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                (*PARLEY, "up"), env=self._environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )
        return self

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            return "Parley is ready" in self._log.read_text()

        eventually(ready, START_SECONDS)

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(STOP_SECONDS) == 0, self._log.read_text()
        finally:
            self.process.kill()
            self.process.wait()


def demo(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo as a real process."""
    return subprocess.run(
        (*PARLEY, "demo", *arguments),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("suite")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a suite that is ready."""
    with ExitStack() as stack:
        found = environment(folder / "data")
        suite = stack.enter_context(Suite(found, folder / "log"))
        suite.wait_ready()
        yield found


def test_the_demo_passes_again_and_again_on_the_same_data(running: dict[str, str]) -> None:
    for _ in range(2):
        shown = demo(running)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        *steps, last = shown.stdout.splitlines()
        assert len(steps) > 20
        assert all(line.startswith("✓ ") and line.endswith((" ms", " s")) for line in steps)
        assert last.startswith(f"All {len(steps)} steps as promised")


def test_a_wrong_answer_is_one_clear_line_and_exit_1(running: dict[str, str]) -> None:
    wrong = demo(running, "--file-port", running["PARLEY_CHAT_PORT"])
    assert wrong.returncode == 1
    *_, failed, why = wrong.stdout.splitlines()
    assert failed.startswith("✗ Ann uploads 9 MiB")
    assert why.startswith("parley demo: Ann uploads 9 MiB")
    assert "METHOD_UNKNOWN" in why
    assert wrong.stderr == ""


def test_no_secret_is_in_the_log(running: dict[str, str], folder: Path) -> None:
    assert demo(running).returncode == 0
    log = (folder / "log").read_text()
    assert "rpc" in log
    for secret in ("eyJ", "Once only", "demo.example.com", "Welcome back"):
        assert secret not in log


def test_every_process_signs_in_to_its_database_as_its_own_role(running: dict[str, str]) -> None:
    url = running_database_url(Path(running["PARLEY_DATA_DIR"]))
    assert url is not None
    with psycopg.connect(url) as connection:
        users = connection.execute(
            "SELECT DISTINCT usename FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchall()
    assert {name for (name,) in users} == set(ROLES)


def test_a_suite_that_is_not_running_is_one_clear_line_and_exit_1(tmp_path: Path) -> None:
    found = environment(tmp_path / "data")
    shown = demo(found)
    assert shown.returncode == 1
    assert shown.stderr == ""
    assert shown.stdout == (
        f"parley demo: nothing answers at 127.0.0.1:{found['PARLEY_AUTH_PORT']}; start it with `make up`\n"
    )


def test_the_welcome_mail_is_caught_by_smtp_where_the_suite_sends_it_there(tmp_path: Path) -> None:
    (smtp_port,) = free_ports(1)
    found = environment(
        tmp_path / "data",
        PARLEY_SMTP_HOST="127.0.0.1",
        PARLEY_SMTP_PORT=str(smtp_port),
        PARLEY_SMTP_SECURITY="none",
    )
    log = tmp_path / "log"
    with Suite(found, log) as suite:
        suite.wait_ready()
        shown = demo(found, "--smtp-listen", f"127.0.0.1:{smtp_port}")
    assert shown.returncode == 0, shown.stdout + log.read_text()
    assert not (tmp_path / "data" / "mail").exists()
