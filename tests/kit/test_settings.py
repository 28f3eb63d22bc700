"""A wrong setting is one clear line and exit 2, and a variable that nobody reads is told of."""

import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from services.kit.settings import DatabaseSettings, ServiceSettings, load, warn_unknown_variables

GOOD_URL = "postgresql://ann:the-password@127.0.0.1:5432/parley"


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    """A real process that loads the settings of a service."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    program = "from services.kit.settings import ServiceSettings, load; load(ServiceSettings)"
    return subprocess.run(
        [sys.executable, "-c", program],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {"PARLEY_DATABASE_URL": GOOD_URL, "PARLEY_AUTH_PORT": "high"},
            "PARLEY_AUTH_PORT: Input should be a valid integer",
        ),
        ({}, "PARLEY_DATABASE_URL: is not set"),
    ],
)
def test_a_wrong_value_ends_the_process_with_one_line_and_exit_2(environment: dict[str, str], line: str) -> None:
    ended = run(**environment)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (only,) = ended.stderr.splitlines()
    assert only.startswith(f"parley: {line}")


def test_good_values_are_accepted_without_a_word() -> None:
    ended = run(PARLEY_DATABASE_URL=GOOD_URL, PARLEY_AUTH_PORT="50061")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH_PORT", "65536"),
        ("AUTH_PORT", "-1"),
        ("DRAIN_SECONDS", "0"),
        ("DRAIN_SECONDS", "nan"),
        ("UNARY_TIMEOUT", "soon"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("MAX_CONCURRENT_STREAMS", "0"),
        ("DATABASE_POOL_SIZE", "0"),
        ("TOKEN_ISSUER", ""),
        ("TOKEN_AUDIENCE", ""),
        ("SERVICE_SECRET", ""),
        ("SERVICE_SECRET", "guessed-by-others"),
    ],
)
def test_each_value_is_checked(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARLEY_DATABASE_URL", GOOD_URL)
    monkeypatch.setenv(f"PARLEY_{name}", value)
    with pytest.raises(SystemExit) as caught:
        load(ServiceSettings)
    assert caught.value.code == 2
    (only,) = capsys.readouterr().err.splitlines()
    assert only.startswith(f"parley: PARLEY_{name}: ")
    assert "guessed-by-others" not in only


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://a:the-password@b/c",
        "postgresql://ann:the-password@host:port/name",
        "postgresql://[the-password",
        "",
    ],
)
def test_a_wrong_database_url_is_told_without_repeating_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARLEY_DATABASE_URL", url)
    with pytest.raises(SystemExit) as caught:
        load(DatabaseSettings)
    assert caught.value.code == 2
    (only,) = capsys.readouterr().err.splitlines()
    assert only == "parley: PARLEY_DATABASE_URL: must be a URL such as postgresql://user:password@host:5432/name"


@pytest.mark.parametrize(
    "url",
    [
        GOOD_URL,
        "postgres://localhost/parley",
        "postgresql://postgres:@/postgres?host=/run/parley",
        "postgresql:///parley",
    ],
)
def test_every_usual_form_of_a_database_url_is_accepted(url: str) -> None:
    assert DatabaseSettings(database_url=url).database_url.get_secret_value() == url  # type: ignore[arg-type]  # as from the environment


def test_settings_do_not_change_and_do_not_show_secrets() -> None:
    settings = DatabaseSettings(database_url=GOOD_URL)  # type: ignore[arg-type]  # as from the environment
    with pytest.raises(ValidationError):
        settings.log_level = "debug"  # type: ignore[misc]  # what is tested
    assert "the-password" not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        ({"PARLEY_AUTH_PORT": "1", "PATH": "/bin", "PARLEYS": "x"}, []),
        ({"parley_auth_port": "1"}, []),
        (
            {"PARLEY_AUTH_PROT": "1"},
            ["parley: PARLEY_AUTH_PROT is not a setting and has no effect; did you mean PARLEY_AUTH_PORT?"],
        ),
        ({"PARLEY_QQQQ": "1"}, ["parley: PARLEY_QQQQ is not a setting and has no effect"]),
        (
            {"PARLEY_LOGLEVEL": "info", "PARLEY_DATABSE_URL": "x"},
            [
                "parley: PARLEY_DATABSE_URL is not a setting and has no effect; did you mean PARLEY_DATABASE_URL?",
                "parley: PARLEY_LOGLEVEL is not a setting and has no effect; did you mean PARLEY_LOG_LEVEL?",
            ],
        ),
    ],
)
def test_a_variable_that_no_setting_reads_is_told_with_the_nearest_name(
    environment: dict[str, str], lines: list[str], capsys: pytest.CaptureFixture[Any]
) -> None:
    warn_unknown_variables([ServiceSettings], environment)
    assert capsys.readouterr().err.splitlines() == lines
