"""Which revision of the database this code is written for, and whether a database has it.

A newer one is fine: the history only adds what the release before can live with (expand and contract).
"""

from typing import Any

import psycopg

REVISION = "0006"
"""The newest of `services/migrations/versions`; revisions sort as text."""

_REVISION_THERE = "SELECT max(version_num) FROM public.alembic_version"


class SchemaMissing(Exception):
    """The database has not been migrated to what this code needs: run `parley migrate`."""


async def check_schema(connection: psycopg.AsyncConnection[Any]) -> None:
    """Raises SchemaMissing if the database is not at REVISION or a later one."""
    try:
        row = await (await connection.execute(_REVISION_THERE)).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    if row is None or row[0] is None or row[0] < REVISION:
        raise SchemaMissing


def has_schema(url: str) -> bool:
    """Whether a database is at REVISION or a later one; False, too, while it cannot be reached."""
    try:
        with psycopg.connect(
            url.replace("postgresql+psycopg:", "postgresql:", 1), autocommit=True, connect_timeout=3
        ) as connection:
            row = connection.execute(_REVISION_THERE).fetchone()
    except psycopg.Error:
        return False
    return row is not None and row[0] is not None and row[0] >= REVISION
