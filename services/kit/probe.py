"""Whether PostgreSQL is there, asked over a connection of its own a few times a second."""

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
import structlog

from services.kit.roles import RoleMissing, take_role
from services.kit.schema import REVISION, SchemaMissing, check_schema

log = structlog.get_logger()

INTERVAL = 0.3
ANSWER_TIMEOUT = 0.4
AFTERTHOUGHT = 0.1
CONNECT_TIMEOUT = 3

Connection = psycopg.AsyncConnection[Any]


class Probe:
    """Follows within a second whether PostgreSQL answers, and has the schema and the role that this code needs."""

    def __init__(self, url: str, role: str | None = None) -> None:
        self.ready = asyncio.Event()
        self.outages = 0
        """How often the connection has broken: others that were made before the last time are broken, too."""
        self._url = url
        self._role = role
        self._connection: Connection | None = None
        self._said = False

    async def run_for_ever(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(INTERVAL)
        finally:
            if self._connection is not None:
                await self._connection.close()

    async def _look(self) -> None:
        try:
            if self._connection is None:
                self._connection = await Connection.connect(self._url, autocommit=True, connect_timeout=CONNECT_TIMEOUT)
            if not self.ready.is_set():
                if self._role is not None:
                    await take_role(self._connection, self._role)
                await check_schema(self._connection)
            await self._ask(self._connection)
        except SchemaMissing:
            self._say("database without the schema, waiting for `parley migrate`", revision=REVISION)
        except RoleMissing as missing:
            self._say(str(missing))
        except (psycopg.Error, OSError, TimeoutError) as error:
            self.ready.clear()
            self._say("database away, waiting for it", error=type(error).__name__)
            # Slow is not gone: connections made anew would not be quicker.
            await self._drop(broken=not isinstance(error, TimeoutError))
        else:
            if self._said:
                log.info("database is back")
                self._said = False
            self.ready.set()

    async def _ask(self, connection: Connection) -> None:
        """One question to PostgreSQL. While it does not answer in time it counts as away, from that moment on."""
        asking = asyncio.ensure_future(connection.execute("SELECT 1"))
        try:
            answered, _ = await asyncio.wait((asking,), timeout=ANSWER_TIMEOUT)
            if not answered:  # Perhaps it is this process that was held up, and the answer is waiting.
                answered, _ = await asyncio.wait((asking,), timeout=AFTERTHOUGHT)
            if not answered:
                self.ready.clear()  # Now: psycopg takes seconds to give up a question to a server that hangs.
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.wait((asking,))
        if asking.cancelled():
            raise TimeoutError
        asking.result()

    async def _drop(self, *, broken: bool) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error, OSError):
                await self._connection.close()
            self._connection = None
            self.outages += broken

    def _say(self, what: str, **fields: object) -> None:
        """Once for each outage."""
        if not self._said:
            log.warning(what, **fields)
            self._said = True
