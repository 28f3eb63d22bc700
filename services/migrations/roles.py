"""One PostgreSQL role for each service, and what each may do: whoever breaks into chat reads nobody's password hash.

Every migration states this anew, so that new tables are covered. A release that changes GRANTS brings a revision, even
an empty one: `parley up` does not migrate a database that is at the newest.
"""

import time
from collections.abc import Callable
from typing import Any, LiteralString

import psycopg
from psycopg import sql

ROLES = ("parley_auth", "parley_agent", "parley_file", "parley_chat", "parley_worker")
SCHEMAS = ("auth", "agent", "file", "chat", "jobs")

_ROWS: LiteralString = "SELECT, INSERT, UPDATE, DELETE"

# Foreign keys need no grants: PostgreSQL checks them as the tables' owner.
GRANTS: tuple[tuple[str, LiteralString, LiteralString], ...] = (
    ("parley_auth", "USAGE", "SCHEMA auth"),
    ("parley_auth", _ROWS, "ALL TABLES IN SCHEMA auth"),
    # Auth enqueues jobs and sees which are under way, but not with what arguments.
    ("parley_auth", "USAGE", "SCHEMA jobs"),
    ("parley_auth", "EXECUTE", "FUNCTION jobs.procrastinate_defer_jobs_v1"),
    ("parley_auth", "INSERT, SELECT (id, status, queueing_lock)", "TABLE jobs.procrastinate_jobs"),
    ("parley_auth", "INSERT", "TABLE jobs.procrastinate_events"),
    ("parley_auth", "USAGE", "SEQUENCE jobs.procrastinate_jobs_id_seq, jobs.procrastinate_events_id_seq"),
    ("parley_agent", "USAGE", "SCHEMA agent"),
    ("parley_agent", _ROWS, "ALL TABLES IN SCHEMA agent"),
    ("parley_file", "USAGE", "SCHEMA file"),
    ("parley_file", _ROWS, "ALL TABLES IN SCHEMA file"),
    ("parley_chat", "USAGE", "SCHEMA chat"),
    ("parley_chat", _ROWS, "ALL TABLES IN SCHEMA chat"),
    ("parley_worker", "USAGE", "SCHEMA jobs"),
    ("parley_worker", _ROWS, "ALL TABLES IN SCHEMA jobs"),
    ("parley_worker", "USAGE", "ALL SEQUENCES IN SCHEMA jobs"),
    ("parley_worker", "EXECUTE", "ALL ROUTINES IN SCHEMA jobs"),
    # Last, as a sign to others that a role has been let in: which revision the database is at.
    *((role, "SELECT", "TABLE public.alembic_version") for role in ROLES),
)

# Taken back from what GRANTS gives for all tables of a schema. The audit log is added to, and removed when it is old:
# whoever breaks into auth does not rewrite what was done.
WITHHELD: tuple[tuple[str, LiteralString, LiteralString], ...] = (("parley_auth", "UPDATE", "TABLE auth.audit_events"),)

# It takes these roles, one at a time, for the jobs of each service, and has nothing of theirs without that.
MEMBER_OF = {"parley_worker": ("parley_auth", "parley_agent", "parley_file", "parley_chat")}

_ATTRIBUTES: LiteralString = "LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"

# What one of two migrations in different databases of a cluster can meet, as roles belong to all of them.
_COLLISIONS = (
    psycopg.errors.DuplicateObject,
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.InternalError_,  # "tuple concurrently updated" has no class of its own
)
_TRIES = 20
_RETRY_SECONDS = 0.05

Connection = psycopg.Connection[Any]


class RolesRefused(Exception):
    """The migrating user may not make the roles or grant what they need; the text is PostgreSQL's reason."""


def make_roles(connection: Connection) -> None:
    """Make the roles that are missing, let the current user take each, and grant exactly GRANTS without WITHHELD.

    Several databases of a cluster can share the roles. `connection` commits every statement by itself.

    Raises:
        RolesRefused: the current user may not do this.
    """
    try:
        for step in (_create, _join, _grant):
            _until_alone(connection, step)
    except psycopg.errors.InsufficientPrivilege as error:
        raise RolesRefused(error.diag.message_primary) from error


def _until_alone(connection: Connection, step: Callable[[Connection], None]) -> None:
    """Do a step in a transaction, again when somebody else did the same at that moment."""
    for tries_left in reversed(range(_TRIES)):
        try:
            with connection.transaction():
                step(connection)
        except _COLLISIONS:
            if not tries_left:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _create(connection: Connection) -> None:
    there = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", (list(ROLES),)).fetchall()
    for role in ROLES:
        if (role,) not in there:
            connection.execute(sql.SQL("CREATE ROLE {} " + _ATTRIBUTES).format(sql.Identifier(role)))


def _join(connection: Connection) -> None:
    """Grant the memberships that are missing. Superusers need none, and others may have been given theirs by one."""
    # Since 16, whoever makes a role is its administrator, which does not yet allow taking it; 15 knows no difference.
    taking = "SET" if connection.info.server_version >= 160_000 else "MEMBER"
    wanted: list[tuple[str, sql.Composable, str]] = [(role, sql.SQL("CURRENT_USER"), "current_user") for role in ROLES]
    wanted += [(role, sql.Identifier(member), f"'{member}'") for member, roles in MEMBER_OF.items() for role in roles]
    for role, member, name in wanted:
        row = connection.execute(f"SELECT pg_has_role({name}, %s, %s)", (role, taking)).fetchone()
        if row != (True,):
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), member))


def _grant(connection: Connection) -> None:
    """Take away what there was, and grant; others see both at once."""
    schemas = sql.SQL(", ").join(map(sql.Identifier, SCHEMAS))
    everybody = sql.SQL(", ").join([sql.SQL("PUBLIC"), *map(sql.Identifier, ROLES)])
    for what in ("SCHEMA {}", *(f"ALL {kind} IN SCHEMA {{}}" for kind in ("TABLES", "SEQUENCES", "ROUTINES"))):
        connection.execute(sql.SQL("REVOKE ALL ON " + what + " FROM {}").format(schemas, everybody))
    for role, privileges, objects in GRANTS:
        connection.execute(sql.SQL("GRANT " + privileges + " ON " + objects + " TO {}").format(sql.Identifier(role)))
    for role, privileges, objects in WITHHELD:
        connection.execute(sql.SQL("REVOKE " + privileges + " ON " + objects + " FROM {}").format(sql.Identifier(role)))
