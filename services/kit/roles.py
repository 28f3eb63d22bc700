"""The role that a service takes in PostgreSQL: what it may do there is what has been granted to that role.

`parley migrate` makes the roles and grants; see `services/migrations/roles.py`.
"""

from typing import Any

import psycopg
from psycopg import sql

from services.kit.settings import DatabaseSettings

_LET_IN = "SELECT has_table_privilege(to_regclass('public.alembic_version'), 'SELECT')"
_SWITCH_OFF = "or set PARLEY_DATABASE_ROLES=false"


class RoleMissing(Exception):
    """The role that a service takes is not there, may not be taken by the URL's user, or has no rights here.

    The text says which, and what to do.
    """


def role_name(service: str) -> str:
    """The role of a service, or of the worker."""
    return f"parley_{service}"


def chosen_role(settings: DatabaseSettings, service: str | None) -> str | None:
    """The role to take for a service; None where that is switched off, or where no service is named."""
    return role_name(service) if service and settings.database_roles else None


def connection_options(role: str | None, **parameters: object) -> str:
    """The `options` of libpq for a session that has other parameters from its start, and a role if one is given."""
    chosen = {**parameters, "role": role} if role else parameters
    return " ".join(f"-c {name}={value}" for name, value in chosen.items())


async def take_role(connection: psycopg.AsyncConnection[Any], role: str) -> None:
    """Give a session its role.

    Raises:
        RoleMissing: it cannot take it, or the role has nothing in this database.
    """
    try:
        await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        row = await (await connection.execute(_LET_IN)).fetchone()
    except psycopg.errors.InvalidParameterValue:
        raise RoleMissing(f"role {role} is missing: run `parley migrate`, {_SWITCH_OFF}") from None
    except psycopg.errors.InsufficientPrivilege:
        raise RoleMissing(
            f"the database's user is no member of role {role}: run `parley migrate` as this user,"
            f" have somebody GRANT it the role, {_SWITCH_OFF}"
        ) from None
    if row is not None and row[0] is False:  # NULL: there is no schema yet, which is told as such.
        raise RoleMissing(f"role {role} has no rights in this database: run `parley migrate`, {_SWITCH_OFF}")
