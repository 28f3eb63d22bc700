"""PostgreSQL: one pool a process, one helper for transactions, one for single reads, and whether it is there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType

import psycopg
from psycopg.sql import quote
from sqlalchemy import MetaData, event, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from services.kit.errors import DatabaseUnavailable, DomainError
from services.kit.probe import Probe
from services.kit.roles import chosen_role, connection_options
from services.kit.settings import DatabaseSettings

NAMING_CONVENTION = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

CONNECT_TIMEOUT = 3
SETTLE_SECONDS = 2.0


def schema_metadata(schema: str) -> MetaData:
    """The metadata for the tables of one service: its own PostgreSQL schema, and names that migrations can rely on."""
    return MetaData(schema=schema, naming_convention=NAMING_CONVENTION)


def sqlalchemy_url(url: str) -> URL:
    """The URL for SQLAlchemy's psycopg driver of a `postgresql://` or `postgres://` URL."""
    return make_url(url).set(drivername="postgresql+psycopg")


def libpq_url(url: str) -> str:
    """The URL for psycopg itself, of a URL in either form."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class Connections:
    """Takes connections from the pool, loses none, and knows when all are back.

    One that is being made or set up when its caller is cancelled SQLAlchemy leaves to the garbage collector. Here it
    goes back to the pool as soon as it is there.
    """

    def __init__(self) -> None:
        self._out = 0
        self._all_back = asyncio.Event()
        self._all_back.set()
        self._unwanted: set[asyncio.Task[None]] = set()

    async def take(self, engine: AsyncEngine) -> AsyncConnection:
        """A connection, which must be given back. Raises what SQLAlchemy does."""
        self._out += 1
        self._all_back.clear()
        taking = asyncio.create_task(engine.connect().start(), name="take-connection")
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            unwanted = asyncio.create_task(self._give_back_taken(taking), name="give-connection-back")
            self._unwanted.add(unwanted)
            unwanted.add_done_callback(self._unwanted.discard)
            raise
        except BaseException:
            self._is_back()
            raise

    async def give_back(self, connection: AsyncConnection) -> None:
        """It is not used any more; whatever was not committed is rolled back."""
        try:
            with suppress(exc.SQLAlchemyError):
                await connection.close()
        finally:
            self._is_back()

    async def all_back(self) -> None:
        """Return once none is out, or when that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._all_back.wait()

    async def _give_back_taken(self, taking: asyncio.Task[AsyncConnection]) -> None:
        try:
            connection = await taking
        except BaseException as error:
            self._is_back()
            if not isinstance(error, Exception):
                raise
            return  # There is none, and nobody who would want to hear why.
        await self.give_back(connection)

    def _is_back(self) -> None:
        self._out -= 1
        if not self._out:
            self._all_back.set()


class Scope:
    """One connection for the time of an `async with`. Failures to reach PostgreSQL come out as DatabaseUnavailable."""

    def __init__(self, engine: AsyncEngine, connections: Connections) -> None:
        self._engine = engine
        self._connections = connections

    async def __aenter__(self) -> AsyncConnection:
        try:
            self._connection = await self._connections.take(self._engine)
        except (exc.SQLAlchemyError, OSError) as error:
            raise _translated(error) from error
        try:
            await self._begin()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._commit()
        except (exc.SQLAlchemyError, psycopg.Error) as failure:
            raise _translated(failure) from failure
        finally:
            await self._connections.give_back(self._connection)
        if isinstance(error, Exception) and (translated := _translated(error)) is not error:
            raise translated from error

    async def _begin(self) -> None:
        """What comes before the block."""

    async def _commit(self) -> None:
        """What comes after it unless it failed."""


class Transaction(Scope):
    """One transaction."""

    async def _begin(self) -> None:
        await self._connection.begin()

    async def _commit(self) -> None:
        await self._connection.commit()


class LockedTransaction(Scope):
    """One transaction that begins with a lock, in one round trip. psycopg begins and ends it: half of the work."""

    def __init__(self, engine: AsyncEngine, connections: Connections, name: str) -> None:
        super().__init__(engine, connections)
        self._name = name

    async def _begin(self) -> None:
        self._driver = await driver_connection(self._connection)
        # With the level named: what is read is to be read after the lock was given, whatever the server's default is.
        await self._driver.execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED;"
            f" SELECT pg_advisory_xact_lock(hashtextextended({quote(self._name)}, 0))".encode(),
            prepare=False,
        )

    async def _commit(self) -> None:
        await self._driver.commit()


async def driver_connection(connection: AsyncConnection) -> psycopg.AsyncConnection:
    """The connection as psycopg has it, for what has to be quick."""
    return (await connection.get_raw_connection()).driver_connection  # type: ignore[return-value]  # psycopg's, by the URL of every engine


class Database:
    """The process's access to PostgreSQL. Made by `Database.open`."""

    def __init__(self, engine: AsyncEngine, probe: Probe) -> None:
        self._autocommit = engine
        self._transactional = engine.execution_options(isolation_level="READ COMMITTED")
        self._connections = Connections()
        self._probe = probe
        event.listen(engine.sync_engine, "connect", self._on_connect)
        event.listen(engine.sync_engine, "checkout", self._on_checkout)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: DatabaseSettings, *, role: str | None = None) -> AsyncIterator["Database"]:
        """Open the pool; it need not be reachable yet. `is_ready` follows whether it is, within a second.

        `role` names the service whose PostgreSQL role all connections take; without one they stay the URL's user.
        """
        url = settings.database_url.get_secret_value()
        taken = chosen_role(settings, role)
        engine = create_async_engine(
            sqlalchemy_url(url),
            pool_size=settings.database_pool_size,
            max_overflow=0,
            pool_timeout=5,
            pool_recycle=1800,
            # Switching a connection of the pool costs 60 µs: let the many reads find it as they need it.
            isolation_level="AUTOCOMMIT",
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "options": connection_options(
                    taken, search_path="jobs,public", statement_timeout=f"{settings.database_statement_timeout}s"
                ),
            },
            hide_parameters=True,
        )
        probe = Probe(libpq_url(url), taken)
        probing = asyncio.create_task(probe.run_for_ever(), name="database-probe")
        database = cls(engine, probe)
        try:
            yield database
        finally:
            probing.cancel()
            with suppress(asyncio.CancelledError):
                await probing
            # Whose work was cancelled a moment ago may still have one.
            await database._connections.all_back()
            await engine.dispose()

    @property
    def is_ready(self) -> bool:
        """Whether PostgreSQL answered the last probe, and has the schema that this code needs."""
        return self._probe.ready.is_set()

    async def wait_ready(self) -> None:
        """Return once it is ready."""
        await self._probe.ready.wait()

    def transaction(self, *, lock: str | None = None) -> Scope:
        """One transaction: committed when the block ends, rolled back when it raises. Only the domain opens one.

        Of those under one `lock`, in whatever process, each begins when the one before has ended, and sees what it did.
        """
        if lock is not None:
            return LockedTransaction(self._autocommit, self._connections, lock)
        return Transaction(self._transactional, self._connections)

    def read(self) -> Scope:
        """A connection that commits every statement: for use cases of a single statement, at one round trip."""
        return Scope(self._autocommit, self._connections)

    def _on_connect(self, _connection: object, record: ConnectionPoolEntry) -> None:
        record.info["outages"] = self._probe.outages

    def _on_checkout(self, _connection: object, record: ConnectionPoolEntry, _fairy: object) -> None:
        # The probe's connection broke since, and those of the pool went with it: none may fail the call that gets it.
        if record.info["outages"] != self._probe.outages:
            raise exc.InvalidatePoolError


def _translated(error: Exception) -> Exception:
    """DatabaseUnavailable where waiting helps; any other failure of a statement is a fault and stays what it is."""
    if isinstance(error, DomainError):
        return error
    cause: BaseException | None = error
    while cause is not None:
        if _is_connection_lost(cause):
            return DatabaseUnavailable()
        cause = cause.__cause__
    return error


def _is_connection_lost(error: BaseException) -> bool:
    """Whether an error of SQLAlchemy, or of psycopg under it or under the job queue, says that PostgreSQL is away."""
    if isinstance(error, exc.DBAPIError):
        return error.connection_invalidated
    if isinstance(error, psycopg.InterfaceError | exc.TimeoutError):
        return True
    # Class 08: connection; 53: out of connections, disk or memory; 57P: shutting down; 57014: the statement took too
    # long, mostly for a lock; no state: never got there.
    state = getattr(error, "sqlstate", None)
    return isinstance(error, psycopg.OperationalError) and (
        state is None or state[:2] in ("08", "53") or state[:3] == "57P" or state == "57014"
    )
