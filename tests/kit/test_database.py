"""The database: work that commits whole or not at all, and a clear answer while it is away."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import pytest
from google.rpc import error_details_pb2 as details_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import literal_column, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError
from structlog.testing import capture_logs

from parley.file.v1 import file_service_pb2 as pb2
from services.kit.database import Database, libpq_url, sqlalchemy_url
from services.kit.errors import DatabaseUnavailable, NotFound
from services.kit.prepared import Prepared
from services.kit.settings import DatabaseSettings
from tests.kit.conftest import FILE_ID, Start, call_of_kind
from tests.support import Metadata, detail, reason_of, status_of

Settings = Callable[..., Any]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Road:
    """The way to PostgreSQL, which a test can close: connections break and new ones are refused, or nothing moves."""

    def __init__(self, url: str) -> None:
        self._to = make_url(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    @property
    def url(self) -> str:
        query = {name: value for name, value in self._to.query.items() if name not in ("host", "port")}
        return self._to.set(host="127.0.0.1", port=self._port, query=query).render_as_string(hide_password=False)

    async def reserve(self) -> None:
        """Find the port on which it will be."""
        await self.open()
        await self.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.jam(jammed=False)
        for writer in list(self._writers):
            writer.transport.abort()

    def jam(self, *, jammed: bool) -> None:
        """Keep connections as they are, and let nothing through."""
        if jammed:
            self._passing.clear()
        else:
            self._passing.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        folder = self._to.query.get("host", "")
        assert isinstance(folder, str)
        if folder.startswith("/"):
            to_reader, to_writer = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{self._to.port or 5432}")
        else:
            to_reader, to_writer = await asyncio.open_connection(self._to.host or folder, self._to.port or 5432)
        self._writers |= {writer, to_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, to_writer))
                group.create_task(self._pump(to_reader, writer))
        except* OSError:
            pass
        finally:
            self._writers -= {writer, to_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def road(database_url: str) -> AsyncIterator[Road]:
    road = Road(database_url)
    await road.reserve()
    yield road
    await road.close()


@pytest.fixture
def own_settings(settings: Settings, road: Road) -> Callable[..., DatabaseSettings]:
    """Settings whose database is at the end of the road."""

    def make(**values: Any) -> DatabaseSettings:
        made: DatabaseSettings = settings(DatabaseSettings, database_url=road.url, **values)
        return made

    return make


async def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for a condition and say how long it took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # what is looked at has no event
            await asyncio.sleep(0.01)
    return time.monotonic() - started


async def count(database: Database) -> int:
    async with database.read() as tx:
        return int((await tx.execute(text("SELECT count(*) FROM public.notes"))).scalar_one())


@asynccontextmanager
async def with_notes(database: Database) -> AsyncIterator[None]:
    async with database.transaction() as tx:
        await tx.execute(text("CREATE TABLE public.notes (id int PRIMARY KEY)"))
    yield


async def insert_and_fail(database: Database, error: Exception) -> None:
    async with database.transaction() as tx:
        await tx.execute(text("INSERT INTO public.notes VALUES (3)"))
        raise error


async def test_a_transaction_commits_whole_or_not_at_all(database: Database) -> None:
    async with with_notes(database):
        async with database.transaction() as tx:
            await tx.execute(text("INSERT INTO public.notes VALUES (1)"))
            await tx.execute(text("INSERT INTO public.notes VALUES (2)"))
        assert await count(database) == 2
        with pytest.raises(RuntimeError):
            await insert_and_fail(database, RuntimeError())
        assert await count(database) == 2


async def test_a_failure_of_a_statement_stays_what_it_is(database: Database) -> None:
    async with with_notes(database):
        with pytest.raises(IntegrityError):
            async with database.transaction() as tx:
                await tx.execute(text("INSERT INTO public.notes VALUES (1), (1)"))
        with pytest.raises(ProgrammingError):
            async with database.read() as tx:
                await tx.execute(text("SELECT nonsense"))
        assert await count(database) == 0


async def test_a_failure_of_the_domain_goes_through_and_rolls_back(database: Database) -> None:
    async with with_notes(database):
        with pytest.raises(NotFound):
            await insert_and_fail(database, NotFound())
        assert await count(database) == 0


async def test_calls_that_are_cut_off_leave_no_connection_and_no_row_behind(settings: Settings) -> None:
    async with Database.open(settings(DatabaseSettings, database_pool_size=2)) as database, with_notes(database):

        async def insert_and_wait(number: int) -> None:
            async with database.transaction() as tx:
                await tx.execute(text("INSERT INTO public.notes VALUES (:id)"), {"id": number})
                await tx.execute(text("SELECT pg_sleep(60)"))

        for number in range(6):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(insert_and_wait(number), 0.05)
        assert await asyncio.wait_for(count(database), 5) == 0


@pytest.mark.parametrize("at_the_end", [False, True], ids=["", "at the end"])
@pytest.mark.parametrize(
    ("kind", "is_new", "step"),
    [
        *(("transaction", True, step) for step in range(1, 6)),
        *(("transaction", False, step) for step in range(1, 4)),
        *(("read", True, step) for step in range(1, 5)),
        ("read", False, 1),
    ],
)
async def test_a_call_that_is_cut_off_while_it_gets_its_connection_gives_it_back(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    is_new: bool,
    step: int,
    at_the_end: bool,
) -> None:
    wait, steps, reached = psycopg.AsyncConnection.wait, 0, asyncio.Event()

    async def wait_longer(connection: Any, *given: Any, **named: Any) -> Any:
        nonlocal steps
        result = await wait(connection, *given, **named)
        steps += 1
        if steps == step:
            reached.set()
            await asyncio.sleep(0.1)
        return result

    async with Database.open(settings(DatabaseSettings, database_pool_size=1)) as database:

        async def use() -> None:
            async with getattr(database, kind)() as tx:
                await tx.execute(text("SELECT 1"))

        if not is_new:
            await use()
        with monkeypatch.context() as slow:
            slow.setattr(psycopg.AsyncConnection, "wait", wait_longer)
            using = asyncio.create_task(use())
            await asyncio.wait_for(reached.wait(), 10)
            using.cancel()
            with pytest.raises(asyncio.CancelledError):
                await using
        if not at_the_end:
            await use()  # There is only one.
    gc.collect()
    assert "garbage collector" not in caplog.text


@pytest.mark.parametrize("kind", ["transaction", "read"])
async def test_a_connection_whose_user_was_just_cancelled_is_closed_with_the_database(
    settings: Settings, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async with Database.open(settings(DatabaseSettings)) as database:
        in_use = asyncio.Event()

        async def use() -> None:
            async with getattr(database, kind)() as tx:
                await tx.execute(text("SELECT 1"))
                in_use.set()
                await asyncio.Event().wait()

        using = asyncio.create_task(use())
        await in_use.wait()
        using.cancel()
    assert using.cancelled()
    gc.collect()
    assert "garbage collector" not in caplog.text


async def test_no_statement_runs_longer_than_its_limit(settings: Settings) -> None:
    async with Database.open(settings(DatabaseSettings, database_statement_timeout=0.2)) as database:
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            async with database.read() as tx:
                await tx.execute(text("SELECT pg_sleep(60)"))
        assert time.monotonic() - started < 5


async def test_a_faults_text_never_holds_a_parameter(database: Database) -> None:
    with pytest.raises(Exception, match="parameters hidden") as caught:
        async with database.read() as tx:
            await tx.execute(text("SELECT :given / 0"), {"given": 424242})
    assert "424242" not in str(caught.value)


async def test_a_database_that_is_away_at_start_is_waited_for_and_told_once(
    road: Road, own_settings: Callable[..., DatabaseSettings]
) -> None:
    with capture_logs() as logs:
        async with Database.open(own_settings()) as database:
            await until(lambda: len(logs) > 0, 5)
            waiting = asyncio.create_task(database.wait_ready())
            with pytest.raises(DatabaseUnavailable):
                async with database.read() as tx:
                    await tx.execute(text("SELECT 1"))
            assert not database.is_ready
            assert not waiting.done()
            await road.open()
            await asyncio.wait_for(waiting, 5)
            async with database.read() as tx:
                assert (await tx.execute(text("SELECT 1"))).scalar_one() == 1
    told = [entry["event"] for entry in logs]
    assert told == ["database away, waiting for it", "database is back"]


async def test_calls_say_that_the_database_is_away_health_follows_and_both_recover(
    road: Road, own_settings: Callable[..., DatabaseSettings], start: Start, token: Metadata
) -> None:
    await road.open()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(own_settings()))
        await database.wait_ready()

        async def get(request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
            async with database.transaction() as tx:
                await tx.execute(text("SELECT 1"))
            return pb2.GetFileResponse(file=pb2.File(id=request.id))

        channel = await start(GetFile=get, is_ready=lambda: database.is_ready)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert (await watch.read()).status == SERVING
        assert (await call_of_kind(channel, "GetFile", token)).file.id == FILE_ID

        await road.close()
        assert (await asyncio.wait_for(watch.read(), 1)).status == NOT_SERVING
        for _ in range(5):
            with pytest.raises(AioRpcError) as caught:
                await call_of_kind(channel, "GetFile", token)
            assert caught.value.code() == StatusCode.UNAVAILABLE
            assert reason_of(status_of(caught.value)) == "DATABASE_UNAVAILABLE"
            retry = detail(status_of(caught.value), details_pb2.RetryInfo)
            assert retry
            assert retry.retry_delay.ToMilliseconds() == 1000

        await road.open()
        assert (await asyncio.wait_for(watch.read(), 2)).status == SERVING
        assert (await call_of_kind(channel, "GetFile", token)).file.id == FILE_ID


async def test_once_the_database_is_back_no_call_meets_a_connection_from_before(
    road: Road, own_settings: Callable[..., DatabaseSettings]
) -> None:
    await road.open()
    async with Database.open(own_settings(database_pool_size=5)) as database:
        await database.wait_ready()

        async def use_prepared() -> Any:
            async with database.read() as tx:
                await tx.execute(text("SELECT pg_sleep(0.1)"))  # So that each has a connection of its own.
                return await Prepared(select(literal_column("1"))).first(tx, {})

        assert await asyncio.gather(*(use_prepared() for _ in range(5))) == [(1,)] * 5
        await road.close()
        await until(lambda: not database.is_ready, 2)
        await road.open()
        await until(lambda: database.is_ready, 5)
        assert await asyncio.gather(*(use_prepared() for _ in range(5))) == [(1,)] * 5


async def test_readiness_drops_within_a_second_when_postgresql_hangs(
    road: Road, own_settings: Callable[..., DatabaseSettings]
) -> None:
    await road.open()
    async with Database.open(own_settings()) as database:
        await database.wait_ready()
        road.jam(jammed=True)
        await until(lambda: not database.is_ready, 1)
        road.jam(jammed=False)
        await until(lambda: database.is_ready, 10)


async def test_connections_that_postgresql_ended_are_replaced(
    database: Database, start: Start, token: Metadata
) -> None:
    async def get(request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
        async with database.read() as tx:
            await tx.execute(text("SELECT 1"))
        return pb2.GetFileResponse(file=pb2.File(id=request.id))

    channel = await start(GetFile=get)
    await asyncio.gather(*(call_of_kind(channel, "GetFile", token) for _ in range(20)))
    async with database.read() as tx:
        await tx.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    reasons: set[str] = set()
    async with asyncio.timeout(5):
        while True:  # The first to use a connection that is gone finds out, and nobody after it.
            try:
                await call_of_kind(channel, "GetFile", token)
                break
            except AioRpcError as error:
                reasons.add(reason_of(status_of(error)))
    assert reasons <= {"DATABASE_UNAVAILABLE"}
    await asyncio.gather(*(call_of_kind(channel, "GetFile", token) for _ in range(20)))


@pytest.mark.slow
async def test_a_pool_without_a_free_connection_answers_in_time(settings: Settings) -> None:
    async with Database.open(settings(DatabaseSettings, database_pool_size=1)) as database, database.read():
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            async with database.read():
                pass
        assert time.monotonic() - started < 10


def test_urls_are_understood_in_every_form() -> None:
    for url in ("postgres://a:b@c:1/d", "postgresql://a:b@c:1/d", "postgresql+psycopg://a:b@c:1/d"):
        assert libpq_url(url) == "postgresql://a:b@c:1/d"
        assert sqlalchemy_url(url).drivername == "postgresql+psycopg"


@pytest.mark.slow
async def test_a_process_that_is_held_up_does_not_take_the_database_for_away(settings: Settings) -> None:
    async with Database.open(settings(DatabaseSettings)) as database:
        await database.wait_ready()
        with capture_logs() as logs:
            for _ in range(4):
                await asyncio.sleep(0.25)
                time.sleep(0.7)  # noqa: ASYNC251  # the fault under test
            await asyncio.sleep(0.5)
        assert logs == []
        assert database.is_ready
