"""Both ends of following one topic in one process: the hub that reads what is new, and the followers' places.

See `services.kit.feed` for the whole.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog

from services.kit.errors import Unavailable
from services.kit.faults import describe_fault

log = structlog.get_logger()

FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 1.0


class Positioned(Protocol):
    """An element of a sequence."""

    @property
    def position(self) -> int:
        """1 for the first; the one before plus 1 for every other."""


E = TypeVar("E", bound=Positioned)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The follower has everything up to this position; what comes now is live."""

    position: int


@dataclass(frozen=True, slots=True)
class Gap:
    """These positions, both included, are no longer kept."""

    first: int
    last: int


@dataclass(frozen=True)
class FeedLimits:
    """How much a feed holds and how often it looks."""

    page_size: int = 100
    live_queue: int = 100
    look_seconds: float = 0.8
    reads_at_once: int = 4


class Hub(Generic[E]):
    """One topic in one process: reads what is new once and hands it to the followers that are level with it."""

    def __init__(self, topic: UUID, limits: FeedLimits, read: Callable[[int], Awaitable[Sequence[E]]]) -> None:
        self.topic = topic
        self.limits = limits
        self.read = read
        """One page of the table after a position."""
        self.users = 0
        """How many followers there are, those that are just coming included."""
        self.live: set[Follower[E]] = set()
        self.head = -1
        """The last position handed out; -1 before the first look into the table."""
        self.known = 0
        """The last position that the table has been seen to have given."""
        self._hinted = 0
        self._stale = False
        self._reading: asyncio.Task[None] | None = None

    def on_hint(self, position: int | None) -> None:
        """Somebody says that there is something new; None: there may be."""
        self._hinted = max(self._hinted, position or 0)
        if self.head >= 0 and (position is None or position > self.head):
            self._read_soon()

    def at_least(self, known: int) -> None:
        """The table has been seen to have given this position."""
        self.known = max(self.known, known)
        if self.head < 0:
            self.head = known
        if max(self.known, self._hinted) > self.head:
            self._read_soon()

    def offer(self, elements: Sequence[E]) -> None:
        """What this process has just committed: taken as it is when it comes next, else a reason to read."""
        self._hinted = max(self._hinted, elements[-1].position)
        if self.head < 0:
            return
        new = [element for element in elements if element.position > self.head]
        if new and _follows_on(self.head, new):
            self._hand_out(new)
        elif new:
            self._read_soon()

    def stop(self) -> None:
        """Nobody follows any more."""
        if self._reading is not None:
            self._reading.cancel()

    def _read_soon(self) -> None:
        self._stale = True
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_until_level(), name=f"hub-{self.topic}")

    async def _read_until_level(self) -> None:
        try:
            while self._stale:
                self._stale = False
                await self._read_page()
        except Exception as error:  # noqa: BLE001  # followers read for themselves now, so each caller meets the fault
            log.warning("feed cannot be read", topic=str(self.topic), fault=describe_fault(error))
            self._put_all_behind()
        finally:
            self._reading = None

    async def _read_page(self) -> None:
        known = self.known
        page = await until_available(lambda: self.read(self.head))
        if len(page) >= self.limits.page_size:
            self._stale = True
        new = [element for element in page if element.position > self.head]
        if new and _follows_on(self.head, new):
            self._hand_out(new)
        elif new:
            self.head = new[-1].position
            self._put_all_behind()  # There is a hole: each follower reads for itself and tells its gap.
        if not self._stale and self.head < known:
            self.head = known
            self._put_all_behind()

    def _hand_out(self, elements: Sequence[E]) -> None:
        self.head = elements[-1].position
        for follower in tuple(self.live):
            follower.push(elements)

    def _put_all_behind(self) -> None:
        for follower in tuple(self.live):
            follower.fall_behind()


class Follower(Generic[E]):
    """One reader's place in a topic. One task pulls and closes; `end` may be called from any other of the loop."""

    def __init__(self, hub: Hub[E], after: int, on_close: Callable[[], None]) -> None:
        self.position = after
        """The last position that was given out."""
        self._hub = hub
        self._on_close = on_close
        self._queue: list[E] = []
        self._live = False
        self._must_read = after < hub.known
        self._told_caught_up = False
        self._ended_by: Exception | None = None
        self._closed = False
        self._news = asyncio.Event()

    @property
    def is_level(self) -> bool:
        """Whether it has given out everything that this process knows of."""
        return self._live and not self._queue

    def push(self, elements: Sequence[E]) -> None:
        """Take elements that come next, or, when too many wait already, fall behind."""
        if len(self._queue) + len(elements) > self._hub.limits.live_queue:
            self.fall_behind()
            return
        self._queue.extend(elements)
        self._news.set()

    def fall_behind(self) -> None:
        """Go on by reading the table."""
        self._live = False
        self._must_read = True
        self._queue.clear()
        self._hub.live.discard(self)
        self._news.set()

    def end(self, error: Exception) -> None:
        """Give nothing more: the next pull raises this error."""
        self._ended_by = error
        self._news.set()

    def close(self) -> None:
        """Leave. Without effect the second time."""
        if not self._closed:
            self._closed = True
            self._hub.live.discard(self)
            self._queue.clear()
            self._on_close()

    def __enter__(self) -> "Follower[E]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> "Follower[E]":
        return self

    async def __anext__(self) -> Sequence[E] | CaughtUp | Gap:
        while self._ended_by is None:
            if not self._live:
                item = await self._catch_up()
                if item is not None:
                    return item
            elif batch := self._take():
                return batch
            elif not self._told_caught_up:
                self._told_caught_up = True
                return CaughtUp(self.position)
            else:
                self._news.clear()
                await self._news.wait()
        raise self._ended_by

    def _take(self) -> Sequence[E]:
        batch, self._queue = self._queue, []
        if batch and batch[0].position <= self.position:
            # Read from the table before the hub came to them.
            batch = [element for element in batch if element.position > self.position]
        if batch:
            self.position = batch[-1].position
        return batch

    async def _catch_up(self) -> Sequence[E] | Gap | None:
        """What comes next in the table, or None when there was nothing: the follower may be level with its hub now."""
        if not self._must_read and self.position >= self._hub.head:
            self._live = True
            self._hub.live.add(self)
            return None
        known = max(self._hub.known, self._hub.head)
        page = await self._read_page()
        if self._ended_by is not None:
            return None
        if not page:
            self._must_read = False
            return self._pass_over(known) if known > self.position else None
        if page[0].position > self.position + 1:
            return self._pass_over(page[0].position - 1)
        whole = _before_hole(page)
        self.position = whole[-1].position
        self._must_read = len(page) >= self._hub.limits.page_size or len(whole) < len(page) or self.position < known
        return whole

    def _pass_over(self, last: int) -> Gap:
        gap = Gap(self.position + 1, last)
        self.position = last
        return gap

    async def _read_page(self) -> Sequence[E]:
        """A page after the position, however long the database is away; nothing once the follower is ended."""
        retry_after = FIRST_RETRY_SECONDS
        while self._ended_by is None:
            try:
                return await self._hub.read(self.position)
            except Unavailable:
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(retry_after):
                        await self._news.wait()
                retry_after = min(retry_after * 2, LAST_RETRY_SECONDS)
        return ()


async def until_available(attempt: Callable[[], Awaitable[R]]) -> R:
    """What `attempt` answers, tried again for as long as the database is away."""
    retry_after = FIRST_RETRY_SECONDS
    while True:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(retry_after)
            retry_after = min(retry_after * 2, LAST_RETRY_SECONDS)


def _follows_on(head: int, elements: Sequence[Positioned]) -> bool:
    return elements[0].position == head + 1 and elements[-1].position == head + len(elements)


def _before_hole(page: Sequence[E]) -> Sequence[E]:
    first = page[0].position
    if page[-1].position == first + len(page) - 1:
        return page
    return [element for index, element in enumerate(page) if element.position == first + index]
