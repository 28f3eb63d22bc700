"""Transactions under a lock: one at a time, each sees what those before it did, and none leaves anything behind."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, literal_column, select, text
from sqlalchemy.exc import IntegrityError

from services.kit.database import Database
from services.kit.errors import DatabaseUnavailable, NotFound
from services.kit.prepared import Prepared
from services.kit.settings import DatabaseSettings

Settings = Callable[..., Any]
DEADLINE = 10.0
ROOM = 5
_LOCKS = (
    "FROM pg_locks JOIN pg_database ON pg_database.oid = database"
    " WHERE locktype = 'advisory' AND datname = current_database()"
)
FREE = f"SELECT count(*) = 0 {_LOCKS}"
SOMEBODY_WAITS = f"SELECT count(*) > 0 {_LOCKS} AND NOT granted"


async def value(database: Database, statement: str) -> Any:
    async with database.read() as tx:
        return (await tx.execute(text(statement))).scalar_one()


@pytest.fixture
async def notes(database: Database) -> Database:
    async with database.transaction() as tx:
        await tx.execute(text("CREATE TABLE public.notes (id serial PRIMARY KEY)"))
    return database


async def add_if_room(database: Database, lock: str) -> bool:
    async with database.transaction(lock=lock) as tx:
        if (await tx.execute(text("SELECT count(*) FROM public.notes"))).scalar_one() >= ROOM:
            return False
        await tx.execute(text("INSERT INTO public.notes DEFAULT VALUES"))
        return True


async def fail_with(database: Database, error: BaseException) -> None:
    async with database.transaction(lock="notes") as tx:
        await tx.execute(text("INSERT INTO public.notes DEFAULT VALUES"))
        raise error


async def lose_the_connection(database: Database, by: Database) -> None:
    async with database.transaction(lock="notes") as tx:
        backend = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await tx.execute(text("INSERT INTO public.notes DEFAULT VALUES"))
        await value(by, f"SELECT pg_terminate_backend({backend}, 5000)")


async def test_of_many_at_once_each_sees_what_those_before_it_did(notes: Database, settings: Settings) -> None:
    async with Database.open(settings(DatabaseSettings)) as other, asyncio.timeout(DEADLINE):
        added = await asyncio.gather(*(add_if_room(db, "it's a 'lock' \\") for db in [notes, other] * 10))
    assert sum(added) == ROOM
    assert await value(notes, "SELECT count(*) FROM public.notes") == ROOM


async def test_it_sees_them_whatever_isolation_the_server_has_by_default(notes: Database, settings: Settings) -> None:
    async with Database.open(settings(DatabaseSettings, database_pool_size=1)) as other:
        async with other.read() as tx:
            await tx.execute(text("SET default_transaction_isolation = 'serializable'"))
        async with asyncio.timeout(DEADLINE), notes.transaction(lock="notes") as tx:
            waiting = asyncio.create_task(add_if_room(other, "notes"))
            while not await value(notes, SOMEBODY_WAITS):  # noqa: ASYNC110  # PostgreSQL tells it to who asks
                await asyncio.sleep(0.005)
            await tx.execute(text("INSERT INTO public.notes SELECT generate_series(101, 105)"))
        assert await waiting is False


async def test_different_locks_do_not_wait_for_each_other(notes: Database) -> None:
    async with asyncio.timeout(DEADLINE), notes.transaction(lock="one"):
        assert await add_if_room(notes, "another")


async def test_a_failure_undoes_it_and_frees_the_lock(notes: Database) -> None:
    for error in (RuntimeError(), NotFound(), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await fail_with(notes, error)
        assert await value(notes, "SELECT count(*) FROM public.notes") == 0
        assert await value(notes, FREE)
    with pytest.raises(IntegrityError):
        async with notes.transaction(lock="notes") as tx:
            await tx.execute(text("INSERT INTO public.notes VALUES (1), (1)"))
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with notes.transaction(lock="notes") as tx:
            await Prepared(select(literal_column("1") / bindparam("zero"))).first(tx, {"zero": 0})
    assert await value(notes, FREE)
    async with asyncio.timeout(DEADLINE):
        assert await add_if_room(notes, "notes")


async def test_who_is_cut_off_leaves_no_connection_no_lock_and_no_row_behind(settings: Settings) -> None:
    async with Database.open(settings(DatabaseSettings, database_pool_size=2)) as database:
        async with database.transaction() as tx:
            await tx.execute(text("CREATE TABLE public.notes (id serial PRIMARY KEY)"))

        async def add_and_wait() -> None:
            async with database.transaction(lock="notes") as tx:
                await tx.execute(text("INSERT INTO public.notes DEFAULT VALUES"))
                await tx.execute(text("SELECT pg_sleep(60)"))

        # One of them is cut off in its statement, the other while it waits for the lock.
        for _ in range(3):
            cut_off = [asyncio.wait_for(add_and_wait(), 0.1) for _ in range(2)]
            answers = await asyncio.gather(*cut_off, return_exceptions=True)
            assert [type(answer) for answer in answers] == [TimeoutError, TimeoutError]
        async with asyncio.timeout(DEADLINE):
            assert await value(database, "SELECT count(*) FROM public.notes") == 0
            assert await value(database, FREE)
            assert await add_if_room(database, "notes")


async def test_a_connection_that_postgresql_ended_is_unavailable(settings: Settings, notes: Database) -> None:
    async with Database.open(settings(DatabaseSettings, database_pool_size=1)) as other:
        assert await add_if_room(other, "notes")
        with pytest.raises(DatabaseUnavailable):
            await lose_the_connection(other, notes)
        assert await value(notes, "SELECT count(*) FROM public.notes") == 1
        async with asyncio.timeout(DEADLINE):
            assert await add_if_room(other, "notes")
