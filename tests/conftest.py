"""Real servers on real PostgreSQL: one server a session, one freshly cloned database a test."""

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from uuid import UUID

import grpc
import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from services.cli.embedded_postgres import EmbeddedPostgres
from services.kit.database import Database, libpq_url
from services.kit.identity import Refusal
from services.kit.revocations import RevokedSessions
from services.kit.server import Service, running
from services.kit.settings import DatabaseSettings, ServiceSettings
from services.migrations import migrate
from tests.support import Metadata, TestKeys, bearer, identity_of, until
from tools.go_client import PROGRAMS

S = TypeVar("S", bound=DatabaseSettings)
Serve = Callable[..., Awaitable[grpc.aio.Channel]]
Wiring = Callable[[Any], AbstractAsyncContextManager[Service]]
TEMPLATE = "parley_template"
pytest_plugins = ["tests.canaries"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--s3", action="store_true", help="keep files on an S3 server that the tests start")
    parser.addoption("--clients", action="store_true", help="run the clients that `make clients` builds, too")


@pytest.fixture
def go_programs(request: pytest.FixtureRequest) -> Path:
    """Where the programs of the client in Go are; without --clients, tests that ask for them are skipped."""
    if not request.config.getoption("--clients"):
        pytest.skip("needs a client in Go: make clients")
    return PROGRAMS


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server: an embedded one, or the one that PARLEY_TEST_DATABASE_URL names."""
    if url := os.environ.get("PARLEY_TEST_DATABASE_URL"):
        yield libpq_url(url)
        return
    # These data die with the tests, so that PostgreSQL need not wait for the disk.
    options = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "300"}
    with (
        TemporaryDirectory(prefix="parley-tests-", dir=_quick_folder()) as folder,
        EmbeddedPostgres.start(Path(folder), options=options) as server,
    ):
        yield server.url


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The server's URL, once the template database has every migration."""
    with _administering(postgres) as admin:
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(TEMPLATE)))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TEMPLATE)))
    migrate(_url_of(postgres, TEMPLATE))
    return postgres


@pytest.fixture
def database_url(template: str) -> Iterator[str]:
    """A database of this test's own."""
    name = f"parley_test_{uuid.uuid4().hex}"
    with _administering(template) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY").format(
                sql.Identifier(name), sql.Identifier(TEMPLATE)
            )
        )
    yield _url_of(template, name)
    with _administering(template) as admin:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Callable[..., Any]:
    """A maker of settings for this test, as in `settings(AgentSettings, agent_max_per_user=2)`."""

    def make(kind: type[S], **values: Any) -> S:
        given: dict[str, Any] = {"database_url": database_url, "data_dir": tmp_path / "data", "drain_seconds": 2.0}
        for service in ("auth", "agent", "file", "chat"):  # not those of a suite that may run on this machine
            given[f"{service}_target"] = f"unix:{tmp_path}/nobody"
        return kind(**given | values)

    return make


@pytest.fixture
async def database(settings: Callable[..., Any]) -> AsyncIterator[Database]:
    """The kit's access to this test's database."""
    async with Database.open(settings(DatabaseSettings)) as opened:
        await opened.wait_ready()
        yield opened


@pytest.fixture(scope="session")
def keys() -> TestKeys:
    """The keys that services under test accept."""
    return TestKeys()


class AsUser:
    """Tokens of users that exist: `as_user("ann")` is metadata, `as_user.id("ann")` the user's id."""

    def __init__(self, database_url: str, keys: TestKeys) -> None:
        self._url = database_url
        self._keys = keys
        self._ids: dict[str, UUID] = {}

    def __call__(self, name: str, **changed_claims: Any) -> Metadata:
        return bearer(self._keys.token(self.id(name), **changed_claims))

    def id(self, name: str) -> UUID:
        """The user's id; the row is made when the name is first said."""
        if name not in self._ids:
            self._ids[name] = uuid.uuid4()
            with psycopg.connect(libpq_url(self._url), autocommit=True) as connection:
                connection.execute(
                    "INSERT INTO auth.users (id, email, email_key, full_name, password_hash, create_time, update_time)"
                    " VALUES (%s, %s, %s, %s, '', now(), now())",
                    (self._ids[name], f"{name}@example.com", f"{name}@example.com", name.title()),
                )
        return self._ids[name]


@pytest.fixture
def as_user(database_url: str, keys: TestKeys) -> AsUser:
    """Calls on behalf of users, by name."""
    return AsUser(database_url, keys)


@pytest.fixture
def revoked() -> RevokedSessions:
    """The sessions that services under test take for revoked."""
    return RevokedSessions()


@pytest.fixture
def refusals() -> list[Refusal]:
    """The calls that services under test have refused to callers of the wrong kind."""
    return []


@pytest.fixture
async def serve(
    keys: TestKeys,
    database_url: str,  # noqa: ARG001  # outlives the servers
    revoked: RevokedSessions,
    refusals: list[Refusal],
) -> AsyncIterator[Serve]:
    """A runner of services in this process, for a wiring and its settings; answers with a channel.

    They accept the tests' tokens and look at `revoked`; with `own_keys=True` a service keeps its wiring's identity.
    With `port`, others can be told beforehand where it will be.
    """
    async with AsyncExitStack() as stack:

        async def start(
            wiring: Wiring, settings: ServiceSettings, *, own_keys: bool = False, port: int = 0
        ) -> grpc.aio.Channel:
            service = await stack.enter_async_context(wiring(settings))
            if not own_keys:
                service = replace(service, identity=identity_of(keys, revoked=revoked, refusals=refusals))
            address = await stack.enter_async_context(running(service, settings, port=port))
            channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            if own_keys:
                await until(lambda: service.is_ready() and service.identity.is_ready())
            return await stack.enter_async_context(channel)

        yield start


def _quick_folder() -> Path | None:
    """Memory where there is enough: a clone of the template is 300 files, which take 8 ms there and 200 on a disk."""
    memory = Path("/dev/shm")  # only for a folder with a name of its own
    if memory.is_dir() and os.access(memory, os.W_OK) and disk_usage(memory).free > 2 * 2**30:
        return memory
    return None


@contextmanager
def _administering(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(_url_of(url, "postgres"), autocommit=True) as connection:
        yield connection


def _url_of(url: str, database: str) -> str:
    return make_url(url).set(database=database).render_as_string(hide_password=False)
