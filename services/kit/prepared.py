"""Statements of hot paths: compiled once, and run by psycopg itself on the connection of a use case.

Half of what `AsyncConnection.execute` costs for a small read is SQLAlchemy's own work for each execution;
`python -m benchmarks layers` shows the difference. Everything that is not called thousands of times a second is better
off with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from services.kit.database import driver_connection

_DIALECT = psycopg_dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its constructor untyped


class Prepared:
    """A SELECT, or an INSERT that returns rows, whose values all come by name: `bindparam("id")`.

    Values and columns are what psycopg makes of them, which is what SQLAlchemy's types give for UUIDs, text, numbers,
    booleans, times and JSON; JSON that is sent comes as psycopg's `Jsonb`. Failures are psycopg's; the scope that gave
    the connection translates them as any other.
    """

    def __init__(self, statement: Select[Any] | ReturningInsert[Any]) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        if own := [name for name, value in compiled.params.items() if value is not None]:
            raise ValueError(f"values that a prepared statement has of its own are not sent: {own}")
        self._sql = str(compiled).encode()

    async def first(self, tx: AsyncConnection, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The first row, or None if there is none."""
        return await (await self._run(tx, values)).fetchone()

    async def all(self, tx: AsyncConnection, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """All rows."""
        return await (await self._run(tx, values)).fetchall()

    async def _run(self, tx: AsyncConnection, values: Mapping[str, Any]) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        connection = await driver_connection(tx)
        return await connection.execute(self._sql, values)
