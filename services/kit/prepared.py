"""Statements of hot paths: compiled once, and run by psycopg itself on the connection of a use case.

Half of what `AsyncConnection.execute` costs for a small read is SQLAlchemy's own work for each execution;
`python -m benchmarks layers` shows the difference. To put a large statement together anew costs a millisecond besides,
in which the event loop answers nobody: signing in has several. Everything else is better off with SQLAlchemy's way.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import Select, TextClause, UpdateBase
from sqlalchemy.dialects.postgresql.psycopg import dialect as psycopg_dialect
from sqlalchemy.ext.asyncio import AsyncConnection

from services.kit.database import driver_connection

_DIALECT = psycopg_dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves its constructor untyped


class Prepared:
    """A statement whose values come by name, such as `bindparam("id")`, besides those that it has of its own.

    Values and columns are what psycopg makes of them, which is what SQLAlchemy's types give for UUIDs, text, numbers,
    booleans, times and JSON; JSON that is sent comes as psycopg's `Jsonb`. Failures are psycopg's; the scope that gave
    the connection translates them as any other.
    """

    def __init__(self, statement: Select[Any] | UpdateBase | TextClause) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self._sql = str(compiled).encode()
        self._own = {name: bind.value for bind, name in compiled.bind_names.items() if not bind.required}

    async def first(self, tx: AsyncConnection, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The first row, or None if there is none."""
        return await (await self._run(tx, values)).fetchone()

    async def all(self, tx: AsyncConnection, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """All rows."""
        return await (await self._run(tx, values)).fetchall()

    async def run(self, tx: AsyncConnection, values: Mapping[str, Any]) -> None:
        """Do it, whatever comes of it."""
        await self._run(tx, values)

    async def _run(self, tx: AsyncConnection, values: Mapping[str, Any]) -> psycopg.AsyncCursor[tuple[Any, ...]]:
        connection = await driver_connection(tx)
        return await connection.execute(self._sql, {**self._own, **values} if self._own else values)
