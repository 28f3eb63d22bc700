"""The database's history."""

import asyncio
import re
import sys
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from services.kit import schema
from services.kit.database import sqlalchemy_url
from services.migrations import _config, migrate, newest_revision

VERSIONS = Path(__file__).parent.parent / "services" / "migrations" / "versions"


@pytest.fixture
def empty_url(database_url: str) -> str:
    """A database without a single table of ours."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for name in ("chat", "file", "agent", "auth", "jobs"):
            connection.execute(f"DROP SCHEMA {name} CASCADE")
        connection.execute("DROP TABLE alembic_version")
    return database_url


def test_services_wait_for_the_newest_revision() -> None:
    assert newest_revision() == schema.REVISION


def test_revisions_are_one_line_that_sorts_as_text() -> None:
    files = sorted(VERSIONS.glob("*.py"))
    previous = None
    for path in files:
        source = path.read_text()
        revision = re.search(r'^revision = "(\d{4})"$', source, re.MULTILINE)
        down = re.search(r'^down_revision = (None|"(\d{4})")$', source, re.MULTILINE)
        assert revision
        assert down
        assert down[2] == previous
        assert path.name.startswith(revision[1])
        previous = revision[1]


@pytest.mark.slow
async def test_five_migrations_at_once_on_an_empty_database_make_one(empty_url: str, tmp_path: Path) -> None:
    assert not schema.has_schema(empty_url)
    environment = {"PARLEY_DATABASE_URL": empty_url, "PARLEY_DATA_DIR": str(tmp_path)}
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", "migrate", env=environment, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(5)
    ]
    said = [(await process.communicate())[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 5, said
    assert sum("before at none" in text for text in said) == 1
    assert schema.has_schema(empty_url)


def test_a_second_migration_changes_nothing(database_url: str) -> None:
    assert migrate(database_url) == (schema.REVISION, schema.REVISION)


def test_of_keys_that_were_made_at_the_same_moment_one_goes_on_signing(empty_url: str) -> None:
    upgrade(empty_url, "0005")
    with psycopg.connect(empty_url, autocommit=True) as connection:
        for kid, age in (("a", "1 hour"), ("c", "0"), ("b", "0")):
            connection.execute(
                "INSERT INTO auth.signing_keys (kid, public_key, private_key, create_time)"
                " VALUES (%s, '', '', '2026-01-01T00:00:00Z'::timestamptz - %s::interval)",
                (kid, age),
            )
        migrate(empty_url)
        found = connection.execute(
            "SELECT kid, activate_time IS NOT NULL, retire_time IS NULL, expire_time IS NULL FROM auth.signing_keys"
            " ORDER BY kid"
        ).fetchall()
    assert found == [("a", True, False, False), ("b", True, True, True), ("c", True, False, False)]


def test_what_agents_are_is_their_only_revision_so_far_and_deleted_ones_get_time(empty_url: str) -> None:
    upgrade(empty_url, "0006")
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO auth.users (id, email, email_key, full_name, password_hash, create_time, update_time)"
            " VALUES (gen_random_uuid(), '', '', '', '', now(), now())"
        )
        for name, delete_time in (("kept", None), ("gone", "2020-01-01T00:00:00Z")):
            connection.execute(
                "INSERT INTO agent.agents (id, user_id, name, description, model_name, system_prompt, config,"
                " is_active, revision, create_time, update_time, delete_time)"
                " SELECT gen_random_uuid(), id, %s, 'd', 'm', 's',"
                " '{\"a\": 1}', true, 7, now(), now(), %s FROM auth.users",
                (name, delete_time),
            )
        migrate(empty_url)
        found = connection.execute(
            "SELECT revision.name, revision.config, revision.revision, revision.create_time = agent.update_time,"
            " agent.purge_time - now() > interval '29 days'"
            " FROM agent.revisions AS revision JOIN agent.agents AS agent ON id = agent_id ORDER BY revision.name DESC"
        ).fetchall()
    assert found == [("kept", {"a": 1}, 7, True, None), ("gone", {"a": 1}, 7, True, True)]


def upgrade(url: str, revision: str) -> None:
    """Bring a database to an earlier revision than the newest."""
    engine = create_engine(sqlalchemy_url(url), poolclass=NullPool)
    with engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
