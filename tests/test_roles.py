"""Least privilege in PostgreSQL: each service has a role that reaches its own tables, and nobody else's."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors, sql
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from structlog.testing import capture_logs

from parley.chat.v1 import chat_service_pb2 as pb2
from parley.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.cli import migrate as migrate_command
from services.cli.embedded_postgres import EmbeddedPostgres
from services.kit import schema
from services.kit.bus import open_bus
from services.kit.database import Database
from services.kit.settings import DatabaseSettings
from services.migrations import migrate
from services.migrations.roles import ROLES, SCHEMAS, RolesRefused, make_roles
from tests.support import until

Settings = Callable[..., Any]

OWN_SCHEMA = dict(zip(ROLES, SCHEMAS, strict=True))  # The worker's is `jobs`.
SERVICES = tuple(role for role in ROLES if role != "parley_worker")
# Beside its own tables, as PostgreSQL names privileges on columns and tables.
BESIDES = {
    ("parley_auth", "jobs.procrastinate_jobs"): {"INSERT", "SELECT (id)", "SELECT (queueing_lock)", "SELECT (status)"},
    ("parley_auth", "jobs.procrastinate_events"): {"INSERT"},
    ("parley_auth", "jobs.procrastinate_jobs_id_seq"): {"USAGE"},
    ("parley_auth", "jobs.procrastinate_events_id_seq"): {"USAGE"},
}
PRIVILEGES = """
SELECT nspname || '.' || relname, relkind::text, rolname, privilege_type FROM pg_class
    JOIN pg_namespace ON pg_namespace.oid = relnamespace, aclexplode(relacl)
    LEFT JOIN pg_roles ON pg_roles.oid = grantee
WHERE nspname = ANY (%(schemas)s) AND grantee <> relowner
UNION ALL
SELECT nspname || '.' || relname, relkind::text, rolname, privilege_type || ' (' || attname || ')' FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid
    JOIN pg_namespace ON pg_namespace.oid = relnamespace, aclexplode(attacl)
    LEFT JOIN pg_roles ON pg_roles.oid = grantee
WHERE nspname = ANY (%(schemas)s) AND grantee <> relowner
"""


@contextmanager
def connected(url: str, role: str | None = None) -> Iterator[psycopg.Connection[Any]]:
    options = f"-c role={role}" if role else None
    with psycopg.connect(url, autocommit=True, options=options) as connection:
        yield connection


def as_login(url: str, user: str) -> str:
    return make_url(url).set(username=user, password=None).render_as_string(hide_password=False)


def tables_of(url: str) -> list[tuple[str, str]]:
    """Every table of ours, with its schema, as the catalog has them."""
    with connected(url) as connection:
        rows = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY (%s) ORDER BY 1, 2", (list(SCHEMAS),)
        ).fetchall()
    assert {schema for schema, _ in rows} == set(SCHEMAS)
    return rows


@pytest.mark.parametrize(
    "query",
    [
        "SELECT password_hash FROM auth.users",
        "SELECT private_key FROM auth.signing_keys",
        "SELECT token_hash FROM auth.refresh_tokens",
        "SELECT secret_hash FROM auth.service_secrets",
        "SELECT code_hash FROM auth.email_codes",
        "SELECT id FROM auth.users",
        "SELECT args FROM jobs.procrastinate_jobs",
    ],
)
@pytest.mark.parametrize("role", ["parley_agent", "parley_file", "parley_chat"])
def test_a_service_reads_no_secret_of_auth(database_url: str, role: str, query: str) -> None:
    with connected(database_url, role) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(query)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_no_table_of_another_schema(database_url: str, role: str) -> None:
    with connected(database_url, role) as connection:
        for of, table in tables_of(database_url):
            statement = sql.SQL("SELECT * FROM {} LIMIT 1").format(sql.Identifier(of, table))
            if of == OWN_SCHEMA[role]:
                connection.execute(statement)
            else:
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(statement)


def test_every_privilege_is_one_that_is_meant(database_url: str) -> None:
    """Its own rows for each role, what auth needs to enqueue, and nothing else for anybody: PUBLIC has no name."""
    found: dict[tuple[str | None, str], set[str]] = {}
    kinds: dict[str, str] = {}
    with connected(database_url) as connection:
        for name, kind, role, privilege in connection.execute(PRIVILEGES, {"schemas": list(SCHEMAS)}):
            found.setdefault((role, name), set()).add(privilege)
            kinds[name] = kind
    wanted = dict(BESIDES)
    for role, own in OWN_SCHEMA.items():
        for of, table in tables_of(database_url):
            if of == own:
                wanted[role, f"{of}.{table}"] = {"SELECT", "INSERT", "UPDATE", "DELETE"}
    wanted["parley_auth", "auth.audit_events"] -= {"UPDATE"}
    sequences = {("parley_worker", name): {"USAGE"} for name, kind in kinds.items() if kind == "S"}
    assert found == wanted | sequences


def test_auth_adds_to_its_audit_log_and_cannot_rewrite_it(database_url: str) -> None:
    with connected(as_login(database_url, "parley_auth")) as connection:
        event = (uuid4(), "SIGNED_IN", "", "")
        for _ in range(2):
            connection.execute(
                "INSERT INTO auth.audit_events (id, type, create_time, address, user_agent, details)"
                " VALUES (%s, %s, now(), %s, %s, '{}') ON CONFLICT (id) DO NOTHING",
                event,
            )
        for rewriting in ("UPDATE auth.audit_events SET type = 'SIGNED_OUT'", "TRUNCATE auth.audit_events"):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(rewriting)
        assert connection.execute("DELETE FROM auth.audit_events").rowcount == 1


def test_schemas_and_functions_are_not_for_everybody(database_url: str) -> None:
    with connected(database_url) as connection:
        functions = connection.execute(
            "SELECT oid::regprocedure::text, has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc"
            " WHERE pronamespace = ANY (%s::regnamespace[])",
            (list(SCHEMAS),),
        ).fetchall()
        assert functions
        assert not [name for name, open_to_all in functions if open_to_all]
        for role in ROLES:
            for name in SCHEMAS:
                may_use, may_create = connection.execute(
                    "SELECT has_schema_privilege(%(role)s, %(name)s, 'USAGE'),"
                    " has_schema_privilege(%(role)s, %(name)s, 'CREATE')",
                    {"role": role, "name": name},
                ).fetchone() or (None, None)
                assert may_use == (name == OWN_SCHEMA[role] or (role, name) == ("parley_auth", "jobs"))
                assert not may_create


def test_roles_own_nothing_and_have_no_powers(database_url: str) -> None:
    with connected(database_url) as connection:
        powers = connection.execute(
            "SELECT rolname, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls OR rolinherit,"
            " rolcanlogin, rolpassword IS NULL FROM pg_authid WHERE rolname = ANY (%s)",
            (list(ROLES),),
        ).fetchall()
        assert sorted(powers) == sorted((role, False, True, True) for role in ROLES)
        owned = connection.execute(
            "SELECT count(*) FROM pg_shdepend WHERE deptype = 'o' AND refobjid = ANY (%s::regrole[])", (list(ROLES),)
        ).fetchone()
        assert owned == (0,)


def test_the_worker_has_a_services_rights_only_while_it_takes_its_role(database_url: str) -> None:
    with connected(as_login(database_url, "parley_worker")) as connection:
        for role in SERVICES:
            statement = sql.SQL("SELECT * FROM {}").format(sql.Identifier(OWN_SCHEMA[role], first_table(role)))
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            connection.execute(statement)
            connection.execute("RESET ROLE")


def first_table(role: str) -> str:
    return {"parley_auth": "users", "parley_agent": "agents", "parley_file": "files", "parley_chat": "rooms"}[role]


@pytest.mark.parametrize("role", SERVICES)
def test_a_service_that_signs_in_as_its_role_can_become_no_other(database_url: str, role: str) -> None:
    with connected(as_login(database_url, role)) as connection:
        for other in (*ROLES, str(make_url(database_url).username)):
            connection.execute("RESET ROLE")
            if other != role:
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(other)))


async def test_a_service_has_its_role_on_every_connection(settings: Settings) -> None:
    async with (
        Database.open(settings(DatabaseSettings), role="chat") as database,
        open_bus(settings(DatabaseSettings), "tests", role="chat") as bus,
    ):
        await asyncio.wait_for(database.wait_ready(), 10)
        async with database.transaction() as tx:
            assert (await tx.execute(text("SELECT current_user"))).scalar_one() == "parley_chat"
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.read() as tx:
                await tx.execute(text("SELECT password_hash FROM auth.users"))
        async with await bus._connect() as connection:
            assert await (await connection.execute("SELECT current_user")).fetchone() == ("parley_chat",)


async def test_a_service_works_with_a_login_that_is_its_role(
    serve: Any, settings: Settings, as_user: Any, database_url: str
) -> None:
    own = settings(ChatSettings, database_url=as_login(database_url, "parley_chat"))
    chat = ChatServiceStub(await serve(open_chat, own))
    room = pb2.CreateRoomRequest(name="plans")
    made = await chat.CreateRoom(room, metadata=as_user("ann"), wait_for_ready=True, timeout=10)
    assert made.room.id


# --- Where the roles come from, on a server that has none yet ---------------------------------------------------------


@pytest.fixture(scope="module")
def bare_server() -> Iterator[str]:
    """A PostgreSQL without any role of ours, whose database `parley` has the newest schema."""
    with (
        TemporaryDirectory(prefix="parley-roles-") as folder,
        EmbeddedPostgres.start(Path(folder), options={"fsync": "off"}) as server,
    ):
        migrate(server.url, roles=False)
        yield server.url


@pytest.fixture
def new_database(bare_server: str) -> Iterator[Callable[..., str]]:
    """A maker of databases; they and our roles are gone at the end."""
    names: list[str] = []
    admin_url = make_url(bare_server).set(database="postgres").render_as_string(hide_password=False)

    def make(owner: str = "parley", *, empty: bool = False) -> str:
        name = f"test_{uuid4().hex}"
        with connected(admin_url) as admin:
            statement = "CREATE DATABASE {} OWNER {} TEMPLATE {}"
            template = "template1" if empty else "parley"
            admin.execute(sql.SQL(statement).format(*map(sql.Identifier, (name, owner, template))))
        names.append(name)
        return as_login(make_url(bare_server).set(database=name).render_as_string(hide_password=False), owner)

    yield make
    with connected(admin_url) as admin:
        for name in names:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        there = admin.execute(r"SELECT rolname FROM pg_roles WHERE rolname ~ '^(parley_|owner)'").fetchall()
        # All at once, as one may have granted another.
        if there:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.SQL(", ").join(sql.Identifier(role) for (role,) in there)))


def make_login(url: str, name: str, attributes: str = "") -> None:
    with connected(url) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN {attributes}")


def roles_there(url: str) -> set[str]:
    with connected(url) as connection:
        return {name for (name,) in connection.execute("SELECT rolname FROM pg_roles") if name in ROLES}


async def test_switched_off_there_are_no_roles_and_services_are_the_urls_user(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    url = new_database()
    migrate(url, roles=False)
    assert roles_there(url) == set()
    assert schema.has_schema(url)
    assert not schema.has_schema(url, ROLES)
    off = DatabaseSettings(database_url=url, database_roles=False, data_dir=tmp_path)  # type: ignore[arg-type]  # as from the environment
    async with Database.open(off, role="chat") as database:
        await asyncio.wait_for(database.wait_ready(), 10)
        async with database.read() as tx:
            assert (await tx.execute(text("SELECT current_user"))).scalar_one() == "parley"


async def test_a_service_whose_role_is_missing_says_so_once_and_waits(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    url, other = new_database(), new_database()
    settings = DatabaseSettings(database_url=url, data_dir=tmp_path)  # type: ignore[arg-type]  # as from the environment
    with capture_logs() as logs:
        async with Database.open(settings, role="chat") as database:
            await until(lambda: len(logs) > 0)
            assert not database.is_ready
            await asyncio.to_thread(migrate, url)
            await asyncio.wait_for(database.wait_ready(), 10)
        # The roles are there now, and the other database has not let them in.
        async with Database.open(
            settings.model_copy(update={"database_url": as_secret(other)}), role="chat"
        ) as database:
            await until(lambda: len(logs) > 2)
            assert not database.is_ready
            assert not schema.has_schema(other, ROLES)
            await asyncio.to_thread(migrate, other)
            await asyncio.wait_for(database.wait_ready(), 10)
    assert [entry["event"] for entry in logs] == [
        "role parley_chat is missing: run `parley migrate`, or set PARLEY_DATABASE_ROLES=false",
        "database is back",
        "role parley_chat has no rights in this database: run `parley migrate`, or set PARLEY_DATABASE_ROLES=false",
        "database is back",
    ]
    assert schema.has_schema(url, ROLES)
    assert schema.has_schema(other, ROLES)


def as_secret(url: str) -> Any:
    return DatabaseSettings(database_url=url).database_url  # type: ignore[arg-type]  # as from the environment


async def test_an_owner_with_createrole_migrates_and_its_services_take_their_roles(
    new_database: Callable[..., str], bare_server: str, tmp_path: Path
) -> None:
    make_login(bare_server, "owner", "CREATEROLE")
    url = new_database("owner", empty=True)
    migrate(url)
    migrate(url)  # The second finds everything there.
    assert roles_there(url) == set(ROLES)
    assert schema.has_schema(url, ROLES)
    settings = DatabaseSettings(database_url=url, data_dir=tmp_path)  # type: ignore[arg-type]  # as from the environment
    async with Database.open(settings, role="chat") as database:
        await asyncio.wait_for(database.wait_ready(), 10)
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.read() as tx:
                await tx.execute(text("SELECT password_hash FROM auth.users"))
    with connected(as_login(url, "parley_worker")) as connection:
        connection.execute("SET ROLE parley_auth")
        connection.execute("SELECT password_hash FROM auth.users")


def test_an_owner_who_may_make_no_roles_is_told_of_the_setting(
    new_database: Callable[..., str],
    bare_server: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make_login(bare_server, "owner")
    url = new_database("owner", empty=True)
    monkeypatch.setenv("PARLEY_DATABASE_URL", url)
    assert migrate_command.run() == 1
    said = capfd.readouterr().err
    assert "PARLEY_DATABASE_ROLES=false" in said
    assert "permission denied to create role" in said
    assert schema.has_schema(url)
    assert roles_there(url) == set()
    monkeypatch.setenv("PARLEY_DATABASE_ROLES", "false")
    assert migrate_command.run() == 0


def test_an_owner_shares_the_roles_that_somebody_else_made_only_when_it_is_let(
    new_database: Callable[..., str], bare_server: str
) -> None:
    migrate(new_database())
    make_login(bare_server, "owner")
    url = new_database("owner", empty=True)
    with pytest.raises(RolesRefused):
        migrate(url)
    with connected(bare_server) as admin:
        for role in ROLES:
            admin.execute(sql.SQL("GRANT {} TO owner").format(sql.Identifier(role)))
    migrate(url)
    assert schema.has_schema(url, ROLES)


@pytest.mark.parametrize(
    "meanwhile",
    [
        "CREATE ROLE parley_auth LOGIN",
        "CREATE ROLE parley_auth LOGIN; CREATE ROLE parley_worker LOGIN NOINHERIT; GRANT parley_auth TO parley_worker",
    ],
)
def test_migrations_of_two_databases_at_once_wait_for_each_other(
    new_database: Callable[..., str], meanwhile: str
) -> None:
    """What one has begun when the other starts is there, unseen, until it commits."""
    one, other = new_database(), new_database()
    failures: list[BaseException] = []

    def migrate_other() -> None:
        try:
            with connected(other) as connection:
                make_roles(connection)
        except BaseException as failure:  # noqa: BLE001  # it is asserted that there is none
            failures.append(failure)

    with psycopg.connect(one) as first:
        first.execute(meanwhile)
        thread = threading.Thread(target=migrate_other)
        thread.start()
        with connected(one) as watching:
            give_up = time.monotonic() + 10
            while watching.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (0,):
                assert time.monotonic() < give_up
                assert thread.is_alive(), failures
        first.commit()
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert failures == []
    assert schema.has_schema(other, ROLES)


def test_many_databases_at_once_come_to_the_same_roles(new_database: Callable[..., str]) -> None:
    urls = [new_database() for _ in range(4)]
    together = threading.Barrier(len(urls))
    failures: list[BaseException] = []

    def make(url: str) -> None:
        try:
            with connected(url) as connection:
                together.wait(timeout=10)
                for _ in range(3):
                    make_roles(connection)
        except BaseException as failure:  # noqa: BLE001  # it is asserted that there is none
            failures.append(failure)

    threads = [threading.Thread(target=make, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert failures == []
    assert all(schema.has_schema(url, ROLES) for url in urls)
