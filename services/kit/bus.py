"""Wake-ups between processes: "there is something new in this topic, up to this position".

A hint is never the news itself. It may be lost, late, repeated or out of order, and all that it costs is time: whoever
is woken looks into the table, and looks there now and then without being woken.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import psycopg
import structlog
from psycopg import sql

from services.kit.database import libpq_url
from services.kit.roles import chosen_role, connection_options
from services.kit.settings import DatabaseSettings

log = structlog.get_logger()

Listener = Callable[[int | None], None]
"""Called with a hinted position, or with None when hints may have been lost. It must not block and must not raise."""

MAX_TOPIC_BYTES = 200
MAX_PAYLOAD_BYTES = 7_900  # PostgreSQL takes less than 8,000
MAX_WAITING_TOPICS = 50_000
CHECK_SECONDS = 5.0
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0
FLUSH_SECONDS = 1.0


class Bus(Protocol):
    """What carries hints."""

    def hint(self, topic: str, position: int) -> None:
        """Wake whoever listens to the topic, in every process. It returns at once and never fails."""

    def subscribe(self, topic: str, listener: Listener) -> Callable[[], None]:
        """Call the listener at every hint of the topic until the function that is returned is called."""


class LocalBus:
    """Hints within this process. A bus between processes wakes its own process through one, too."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def hint(self, topic: str, position: int) -> None:
        """See Bus.hint."""
        for listener in tuple(self._listeners.get(topic, ())):
            listener(position)

    def subscribe(self, topic: str, listener: Listener) -> Callable[[], None]:
        """See Bus.subscribe."""
        self._listeners.setdefault(topic, []).append(listener)

        def unsubscribe() -> None:
            listeners = self._listeners.get(topic, [])
            with suppress(ValueError):
                listeners.remove(listener)
            if not listeners:
                self._listeners.pop(topic, None)

        return unsubscribe

    def resync(self) -> None:
        """Tell every listener that it may have missed something."""
        for listeners in tuple(self._listeners.values()):
            for listener in tuple(listeners):
                listener(None)


class PostgresBus:
    """Hints by NOTIFY and LISTEN, over two connections of its own that go to PostgreSQL directly.

    NOTIFY holds a lock of the whole database until its transaction has committed. So it never runs in a transaction
    that appends: hints gather while the last batch is on its way, one for each topic, and the next takes them all.
    """

    def __init__(self, url: str, channel: str, *, role: str | None = None) -> None:
        self._url = url
        self._options = connection_options(role)
        self._channel = channel
        self._local = LocalBus()
        self._waiting: dict[str, int] = {}
        self._something_waits = asyncio.Event()
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self._listening = asyncio.Event()

    @property
    def listening(self) -> bool:
        """Whether hints of other processes arrive at the moment."""
        return self._listening.is_set()

    async def wait_listening(self) -> None:
        """Return once hints of other processes arrive."""
        await self._listening.wait()

    def hint(self, topic: str, position: int) -> None:
        """See Bus.hint. This process is woken at once, others with the next batch."""
        if len(topic.encode()) > MAX_TOPIC_BYTES or any(c.isspace() for c in topic):
            raise ValueError(f"a topic is at most {MAX_TOPIC_BYTES} bytes without white space")
        self._local.hint(topic, position)
        if topic in self._waiting or len(self._waiting) < MAX_WAITING_TOPICS:
            self._waiting[topic] = max(position, self._waiting.get(topic, position))
            self._something_waits.set()
            self._all_sent.clear()

    def subscribe(self, topic: str, listener: Listener) -> Callable[[], None]:
        """See Bus.subscribe."""
        return self._local.subscribe(topic, listener)

    async def flush(self) -> None:
        """Return once every hint given so far has been sent."""
        await self._all_sent.wait()

    async def send_for_ever(self) -> None:
        """Send hints as they gather."""
        retry_after = FIRST_RETRY_SECONDS
        while True:
            try:
                async with await self._connect() as connection:
                    while True:
                        await self._something_waits.wait()
                        await self._send_batches(connection)
                        retry_after = FIRST_RETRY_SECONDS
            except (psycopg.Error, OSError) as error:
                if retry_after == FIRST_RETRY_SECONDS:  # Once for each loss.
                    log.warning("hints cannot be sent, trying again", error=type(error).__name__)
                await asyncio.sleep(retry_after)
                retry_after = min(retry_after * 2, LAST_RETRY_SECONDS)

    async def _send_batches(self, connection: psycopg.AsyncConnection[Any]) -> None:
        batch, self._waiting = self._waiting, {}
        self._something_waits.clear()
        try:
            for payload in _payloads(batch):
                await connection.execute("SELECT pg_notify(%s, %s)", (self._channel, payload))
        except BaseException:
            for topic, position in batch.items():
                self._waiting[topic] = max(position, self._waiting.get(topic, position))
            self._something_waits.set()
            raise
        if not self._waiting:
            self._all_sent.set()

    async def listen_for_ever(self) -> None:
        """Hear hints; after every interruption, tell all listeners to look for themselves."""
        retry_after = FIRST_RETRY_SECONDS
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    self._listening.set()
                    self._local.resync()
                    retry_after = FIRST_RETRY_SECONDS
                    while True:
                        async for notify in connection.notifies(timeout=CHECK_SECONDS):
                            self._hear(notify.payload)
                        # A connection that was cut off without a word looks as quiet as one without hints.
                        async with asyncio.timeout(CHECK_SECONDS):
                            await connection.execute("SELECT 1")
            except (psycopg.Error, OSError, TimeoutError) as error:
                if retry_after == FIRST_RETRY_SECONDS:  # Once for each loss.
                    log.warning("hints cannot be heard, connecting again", error=type(error).__name__)
                self._listening.clear()
                await asyncio.sleep(retry_after)
                retry_after = min(retry_after * 2, LAST_RETRY_SECONDS)

    def _hear(self, payload: str) -> None:
        for line in payload.splitlines():
            topic, _, position = line.rpartition(" ")
            with suppress(ValueError):
                self._local.hint(topic, int(position))

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            libpq_url(self._url),
            autocommit=True,
            connect_timeout=3,
            keepalives_idle=10,
            keepalives_interval=5,
            options=self._options or None,  # an empty one would hide what the URL says
        )


def _payloads(hints: dict[str, int]) -> Iterator[str]:
    """Lines of `topic position`, as many to a payload as PostgreSQL takes."""
    lines: deque[str] = deque()
    size = 0
    for topic, position in hints.items():
        line = f"{topic} {position}"
        line_size = len(line.encode()) + 1
        if size + line_size > MAX_PAYLOAD_BYTES:
            yield "\n".join(lines)
            lines.clear()
            size = 0
        lines.append(line)
        size += line_size
    if lines:
        yield "\n".join(lines)


@asynccontextmanager
async def open_bus(settings: DatabaseSettings, channel: str, *, role: str | None = None) -> AsyncIterator[PostgresBus]:
    """The bus of one service, by the name of its channel. PostgreSQL need not be reachable yet.

    `role` is as in Database.open. At the end of the block the last hints get a moment to go out.
    """
    bus = PostgresBus(settings.database_url.get_secret_value(), f"parley_{channel}", role=chosen_role(settings, role))
    tasks = [asyncio.create_task(run(), name=run.__name__) for run in (bus.send_for_ever, bus.listen_for_ever)]
    try:
        yield bus
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await bus.flush()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
