"""Statements that psycopg runs itself: the same answers and the same failures as any other statement's."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ARRAY, Text, Uuid, bindparam, func, select, text, true
from sqlalchemy.dialects.postgresql import JSONB

from services.kit.database import Database
from services.kit.errors import DatabaseUnavailable
from services.kit.prepared import Prepared
from services.kit.settings import DatabaseSettings

ID = UUID("018f0000-0000-7000-8000-000000000001")
_text = bindparam("text", type_=Text())
STATEMENT = select(
    bindparam("id", type_=Uuid()).label("id"),
    func.jsonb_build_array(_text, true(), type_=JSONB()).label("json"),
    func.to_timestamp(bindparam("seconds")).label("time"),
    func.nullif(_text, _text).label("none"),
)
VALUES = {"id": ID, "text": "50 % of ü", "seconds": 1.5}


async def test_it_gives_what_sqlalchemy_gives(database: Database) -> None:
    async with database.read() as tx:
        first = await Prepared(STATEMENT).first(tx, VALUES)
        assert first == tuple((await tx.execute(STATEMENT, VALUES)).one())
    assert first == (ID, ["50 % of ü", True], datetime.fromtimestamp(1.5, UTC), None)


async def test_it_gives_all_rows_and_takes_lists(database: Database) -> None:
    one = func.unnest(bindparam("ids", type_=ARRAY(Uuid))).column_valued("one")
    every = Prepared(select(one))
    ids = [ID, UUID(int=0)]
    async with database.read() as tx:
        assert await every.all(tx, {"ids": ids}) == [(ID,), (UUID(int=0),)]
        assert await every.all(tx, {"ids": []}) == []


async def test_it_gives_none_where_there_is_no_row(database: Database) -> None:
    async with database.read() as tx:
        assert await Prepared(STATEMENT.where(_text == bindparam("other"))).first(tx, {**VALUES, "other": "x"}) is None


async def test_values_of_the_statement_itself_are_sent_with_the_others(database: Database) -> None:
    both = Prepared(STATEMENT.where(_text == "as it was").limit(1))
    async with database.read() as tx:
        assert await both.first(tx, {**VALUES, "text": "as it was"}) is not None
        assert await both.first(tx, VALUES) is None


async def test_it_sees_what_the_transaction_around_it_did(database: Database) -> None:
    row = Prepared(select(func.current_setting(bindparam("name"))))
    async with database.transaction() as tx:
        await tx.execute(text("SET LOCAL parley.test = 'inside'"))
        assert await row.first(tx, {"name": "parley.test"}) == ("inside",)


async def test_a_connection_that_postgresql_ended_is_unavailable_once_and_then_replaced(
    settings: Callable[..., Any], database: Database
) -> None:
    async with Database.open(settings(DatabaseSettings, database_pool_size=1)) as other:
        async with other.read() as tx:
            backend = (await tx.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        async with database.read() as tx:
            await tx.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": backend})
        with pytest.raises(DatabaseUnavailable):
            async with other.read() as tx:
                await Prepared(STATEMENT).first(tx, VALUES)
        async with asyncio.timeout(5), other.read() as tx:
            assert await Prepared(STATEMENT).first(tx, VALUES)
