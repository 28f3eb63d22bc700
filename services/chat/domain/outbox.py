"""What waits to be written to one stream: bounded, in order, taken in rounds."""

import asyncio
from collections.abc import Sequence

from services.chat.domain.notices import Events, Notice

MAX_WAITING = 256


class Outbox:
    """Everything goes through here in the order in which it was put.

    What arrives while the last round is being written goes out together in the next. While the client does not read,
    `put` waits: then events stay in the table, and requests stay with the client.
    """

    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._notices: list[Notice] = []
        self._weight = 0
        self._news = asyncio.Event()
        self._space = asyncio.Event()
        self._closed = False

    async def put(self, notice: Notice) -> None:
        """Add to the end, once there is space. After `close` it is dropped."""
        while self._weight >= self._limit and not self._closed:
            self._space.clear()
            await self._space.wait()
        if not self._closed:
            self._notices.append(notice)
            self._weight += len(notice.events) if isinstance(notice, Events) else 1
            self._news.set()

    async def take(self) -> Sequence[Notice]:
        """Everything that waits, once something does; nothing when the outbox is closed and empty."""
        while not self._notices and not self._closed:
            self._news.clear()
            await self._news.wait()
        taken, self._notices, self._weight = self._notices, [], 0
        self._space.set()
        return taken

    def close(self) -> None:
        """Take nothing more. What waits can still be taken."""
        self._closed = True
        self._news.set()
        self._space.set()
