"""Names for parts, recorded in advance."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from services.file.repository.reserved import ReservedRows
from services.file.store import PartStore
from services.kit.database import Database
from services.kit.errors import DomainError

BLOCK = 128
RESERVED_FOR = timedelta(hours=1)


class Reserve:
    """Gives out names under which a part can be stored at once: that they may be used is in the database already.

    They are recorded by blocks. What is not used within an hour is given up, and the sweep removes what is there.
    """

    def __init__(self, db: Database, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._clock = clock
        self._keys: deque[str] = deque()
        self._good_until = clock()
        self._filling: asyncio.Task[None] | None = None

    async def take(self) -> str:
        """A name, for half an hour at least. Raises DatabaseUnavailable."""
        if self._clock() > self._good_until:
            self._keys.clear()  # They expire before long; the sweep forgets them.
        if len(self._keys) < BLOCK // 2:
            self._fill()
        while not self._keys:
            await asyncio.shield(self._fill())
        return self._keys.popleft()

    async def close(self) -> None:
        """Nothing is taken any more: let go of the names that are left, if that can be."""
        if self._filling is not None:
            await asyncio.wait((self._filling,))
        keys, self._keys = list(self._keys), deque()
        with suppress(DomainError):  # Then they expire.
            async with self._db.read() as tx:
                await ReservedRows(tx).forget(keys)

    def _fill(self) -> asyncio.Task[None]:
        if self._filling is None or self._filling.done():
            self._filling = asyncio.create_task(self._reserve(), name="reserve-parts")
            self._filling.add_done_callback(_looked_at)
        return self._filling

    async def _reserve(self) -> None:
        keys = [PartStore.new_key() for _ in range(BLOCK)]
        now = self._clock()
        async with self._db.read() as tx:
            await ReservedRows(tx).reserve(keys, now + RESERVED_FOR)
        if not self._keys:
            self._good_until = now + RESERVED_FOR / 2
        self._keys.extend(keys)


def _looked_at(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # Whoever waits for a name hears of it.
