"""The database's history: one line of Alembic migrations for all services, one PostgreSQL schema each.

It goes forward only. A release adds what the next one needs and removes what the one before no longer used, so that
old and new code run side by side on one schema (expand and contract).
"""

import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from services.kit.database import libpq_url, sqlalchemy_url
from services.migrations.roles import make_roles

# Any number will do as long as nothing else on the database uses it: "parley" in ASCII.
LOCK = 0x7061726C6579
CONNECT_RETRY_SECONDS = 0.5


def migrate(
    url: str, *, roles: bool = True, wait_seconds: float = 60.0, on_wait: Callable[[], None] = lambda: None
) -> tuple[str | None, str]:
    """Bring the database to the newest revision, and make the services' roles; the revisions before and after.

    Any number of callers at once make one migration: each waits for a session lock on a connection of its own, which
    must be direct (not through a pooler that shares sessions). Waits for a database that is away and calls `on_wait`
    once; raises psycopg.OperationalError when it stays away, and RolesRefused, with the new revision in place, when the
    URL's user may not make the roles.
    """
    with _connected(url, wait_seconds, on_wait) as guard:
        guard.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        engine = create_engine(sqlalchemy_url(url), poolclass=NullPool, hide_parameters=True)
        with engine.connect() as connection:
            before = MigrationContext.configure(connection).get_current_revision()
            connection.rollback()
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        if roles:
            make_roles(guard)
        return before, newest_revision()


def newest_revision() -> str:
    """The revision that this code is written for."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _connected(url: str, wait_seconds: float, on_wait: Callable[[], None]) -> psycopg.Connection[tuple[object, ...]]:
    ends_at = time.monotonic() + wait_seconds
    said = False
    while True:
        try:
            return psycopg.connect(libpq_url(url), autocommit=True, connect_timeout=3)
        except psycopg.OperationalError:
            if time.monotonic() > ends_at:
                raise
            if not said:
                on_wait()
                said = True
            time.sleep(CONNECT_RETRY_SECONDS)
