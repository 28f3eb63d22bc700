"""Which revision of the database this code is written for, and whether a database has it.

A newer one is fine: the history only adds what the release before can live with (expand and contract).
"""

from collections.abc import Sequence
from typing import Any

import psycopg

REVISION = "0010"
"""The newest of `services/migrations/versions`; revisions sort as text."""

_REVISION_THERE = "SELECT max(version_num) FROM public.alembic_version"
_ROLES_THERE = """
SELECT count(*) FROM pg_roles
WHERE rolname = ANY (%s) AND pg_has_role(oid, 'MEMBER')
    AND has_table_privilege(oid, 'public.alembic_version', 'SELECT')
"""


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


def has_schema(url: str, roles: Sequence[str] = ()) -> bool:
    """Whether a database is at REVISION or a later one, and the URL's user may take these roles, which it let in.

    False, too, while it cannot be reached.
    """
    try:
        with psycopg.connect(
            url.replace("postgresql+psycopg:", "postgresql:", 1), autocommit=True, connect_timeout=3
        ) as connection:
            revision = connection.execute(_REVISION_THERE).fetchone()
            let_in = connection.execute(_ROLES_THERE, (list(roles),)).fetchone()
    except psycopg.Error:
        return False
    return (
        revision is not None
        and revision[0] is not None
        and revision[0] >= REVISION
        and let_in is not None
        and let_in[0] == len(roles)
    )
