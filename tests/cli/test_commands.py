"""What the commands say, and how they end, when something is wrong before they begin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY_THERE = "postgresql://127.0.0.1:1/parley"


def parley(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as its own process, with these settings only."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "environment", "says"),
    [
        (("serve", "auth"), {}, "PARLEY_DATABASE_URL: is not set"),
        (("worker",), {}, "PARLEY_DATABASE_URL: is not set"),
        (("migrate",), {}, "PARLEY_DATABASE_URL: is not set"),
        (("serve", "auth"), {"PARLEY_AUTH_SECRET_KEY": "c2hvcnQ="}, "PARLEY_AUTH_SECRET_KEY must be 32 bytes"),
        (("serve", "file"), {"PARLEY_FILE_STORE_URL": "file:///proc/none"}, "PARLEY_FILE_STORE_URL: the store"),
        (("serve", "file"), {"PARLEY_FILE_STORE_URL": "ftp://here"}, "PARLEY_FILE_STORE_URL: must begin with"),
        (("up",), {"PARLEY_CHAT_PORT": "65536"}, "PARLEY_CHAT_PORT: Input should be less than"),
        (("up",), {"PARLEY_DATABASE_URL": "mysql://here"}, "PARLEY_DATABASE_URL: must be a URL such as postgresql://"),
        (("up",), {"PARLEY_DATA_DIR": "/dev/null/data"}, "PARLEY_DATA_DIR=/dev/null/data cannot be a folder"),
        (("up",), {"PARLEY_LISTEN_HOST": "192.0.2.1"}, "PARLEY_LISTEN_HOST=192.0.2.1 is not an address of this"),
        (("serve", "chat", "--processes", "2"), {"PARLEY_LISTEN_HOST": "192.0.2.1"}, "PARLEY_LISTEN_HOST=192.0.2.1 is"),
    ],
)
def test_a_setting_that_is_wrong_is_a_clear_last_line_and_exit_2(
    command: tuple[str, ...], environment: dict[str, str], says: str, tmp_path: Path
) -> None:
    given = environment if says.endswith("is not set") else {"PARLEY_DATABASE_URL": NOBODY_THERE, **environment}
    ended = parley(*command, **{"PARLEY_DATA_DIR": str(tmp_path), **given})
    assert ended.returncode == 2
    line = (ended.stdout + ended.stderr).splitlines()[-1]
    assert line.startswith(f"parley: {says}")


def test_the_help_names_every_command_without_loading_the_services() -> None:
    ended = parley("--help")
    assert ended.returncode == 0
    for command in ("up", "serve", "worker", "migrate", "demo", "upload", "download"):
        assert f" {command} " in ended.stdout
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "services.cli", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stderr
    assert "sqlalchemy" not in loaded
    assert "grpc" not in loaded


@pytest.mark.parametrize("service", ["auth", "agent", "file", "chat"])
def test_a_service_whose_database_is_away_says_so_waits_and_stops_when_it_is_asked_to(
    service: str, tmp_path: Path
) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")},
        "PARLEY_DATABASE_URL": NOBODY_THERE,
        "PARLEY_DATA_DIR": str(tmp_path),
        f"PARLEY_{service.upper()}_PORT": "0",
    }
    command = [sys.executable, "-m", "services.cli", "serve", service]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "waiting for it" not in said or "listening" not in said:
            line = process.stderr.readline()
            assert line, f"it ended: {said}"
            said += line
        process.terminate()
        assert process.wait(timeout=10) == 0
