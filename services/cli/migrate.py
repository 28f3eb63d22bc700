"""`parley migrate`."""

import sys

import psycopg

from services.kit.faults import describe_fault
from services.kit.settings import DatabaseSettings, load
from services.migrations import migrate
from services.migrations.roles import RolesRefused


def run() -> int:
    """Bring the database to the newest revision, make the services' roles, and say so; the exit code."""
    settings = load(DatabaseSettings)
    try:
        before, after = migrate(
            settings.database_url.get_secret_value(),
            roles=settings.database_roles,
            on_wait=lambda: _say("the database is away, waiting for it (60 s at the most) ..."),
        )
    except psycopg.OperationalError as error:
        _say(f"parley: the database cannot be reached: {describe_fault(error).splitlines()[-1]}")
        _say("parley: check PARLEY_DATABASE_URL, and that PostgreSQL is running there")
        return 1
    except RolesRefused as refused:
        _say("the database is at the newest revision, but a role for each service could not be made:")
        _say(f"parley: {refused}")
        _say(
            "parley: migrate as a user with CREATEROLE, or set PARLEY_DATABASE_ROLES=false for services and migrations"
        )
        return 1
    _say(f"the database is at revision {after}" + ("" if before == after else f", before at {before or 'none'}"))
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
