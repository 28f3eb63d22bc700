"""How many messages of uploads a process receives at a time: each is in its memory until it is taken."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from services.kit.streams import Requests

Req = TypeVar("Req")

PLACES = 64
LULL_SECONDS = 1.0
PATIENCE_SECONDS = 2.0


class Reception:
    """So many places for those who receive. It bounds memory, and stops nobody.

    Who is sent nothing for LULL_SECONDS leaves his place until something comes, and who waits for one for
    PATIENCE_SECONDS goes on without.
    """

    def __init__(self, places: int = PLACES) -> None:
        self._places = asyncio.Semaphore(places)

    @asynccontextmanager
    async def place(self) -> AsyncIterator["Place"]:
        """A place for the time of the block, in which one message is received and taken."""
        place = Place(self._places)
        await place.enter()
        try:
            yield place
        finally:
            place.leave()


class Place:
    """One of them, or none where there was none in time."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places = places
        self._has_one = False

    async def receive(self, requests: Requests[Req], idle_timeout: float) -> Req | None:
        """As Requests.receive."""
        if idle_timeout <= LULL_SECONDS or await requests.comes_within(LULL_SECONDS):
            return await requests.receive(idle_timeout)
        self.leave()
        request = await requests.receive(idle_timeout - LULL_SECONDS)
        await self.enter()
        return request

    async def enter(self) -> None:
        """Have a place, if there is one in time."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            return
        self._has_one = True

    def leave(self) -> None:
        """Have none any more."""
        if self._has_one:
            self._has_one = False
            self._places.release()
