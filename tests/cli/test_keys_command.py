"""`parley keys`, as an operator runs it beside the services."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services.kit.database import libpq_url

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    own = {"PARLEY_DATABASE_URL": libpq_url(database_url), "PARLEY_DATA_DIR": str(tmp_path)}
    return inherited | own | {"PYTHONUNBUFFERED": "1"}


@pytest.fixture
def rows(database_url: str) -> Any:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection


def begin(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.cli", "keys", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    process = begin(environment, *arguments)
    said, complained = process.communicate(timeout=60)
    return process.returncode, said, complained


def states(rows: Any) -> list[str]:
    found = rows.execute(
        "SELECT CASE WHEN retire_time IS NOT NULL THEN 'retired' WHEN activate_time IS NULL THEN 'published'"
        " ELSE 'active' END FROM auth.signing_keys ORDER BY 1"
    )
    return [state for (state,) in found]


def test_a_rotation_that_was_broken_off_goes_on_where_it_was(environment: dict[str, str], rows: Any) -> None:
    assert run(environment, "rotate", "--now")[0] == 0
    process = begin(environment, "rotate")
    assert process.stdout is not None
    first_line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    try:
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "the next `parley keys rotate` goes on with it" in said
    assert states(rows) == ["active", "published"]

    rows.execute(
        "UPDATE auth.signing_keys SET create_time = create_time - interval '5 minutes' WHERE activate_time IS NULL"
    )
    code, said, _ = run(environment, "rotate")
    assert code == 0
    kid = first_line.split()[1]
    assert f"key {kid} is published" in said
    assert f"key {kid} signs" in said
    assert "is retired; its last token expires before" in said
    assert states(rows) == ["active", "retired"]
    code, said, _ = run(environment, "list")
    assert code == 0
    assert sorted(line.split()[1] for line in said.splitlines()[1:]) == ["active", "retired"]
    assert kid in said


def test_a_key_that_somebody_else_may_have_is_gone_at_once(
    environment: dict[str, str], rows: Any, tmp_path: Path
) -> None:
    assert run(environment, "rotate", "--now")[0] == 0
    # With another secret than that of auth: no key that auth could not sign with.
    code, _, complained = run(environment | {"PARLEY_DATA_DIR": str(tmp_path / "other")}, "rotate", "--now")
    assert code == 2
    assert complained.startswith("parley: PARLEY_AUTH_SECRET_KEY is not the one")
    code, said, _ = run(environment, "rotate", "--now")
    assert code == 0
    assert "refused from now on" in said
    assert states(rows) == ["active"]
    taken_down = rows.execute(
        "SELECT actor_id, details->>'immediately' FROM auth.audit_events WHERE type = 'SIGNING_KEY_RETIRED'"
    )
    assert taken_down.fetchall() == [(None, "true")]


def test_without_a_database_it_says_where_it_looked(environment: dict[str, str], tmp_path: Path) -> None:
    del environment["PARLEY_DATABASE_URL"]
    code, _, complained = run(environment, "list")
    assert code == 2
    assert f"no `parley up` runs with its data in {tmp_path}" in complained
