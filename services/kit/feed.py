"""Follow from a cursor: an append-only sequence in a table, given to any number of readers without loss or repetition.

A follower names the last position that it has. It gets what it missed, then `CaughtUp` once, then what is appended, and
a `Gap` where something is no longer kept. The follower's own task pulls:

    with await feed.follow(topic, after=17) as follower:
        async for item in follower:      # a list of elements, CaughtUp or Gap
            ...

The table is the truth. Each process has one hub for each topic that is followed in it: it reads what is new once and
hands it to all its followers. A follower that does not keep up loses its place in the live queue, not in the sequence:
it reads pages of the table until it is level with the hub again. Hints make that quick, and a look into the table every
second makes it certain (docs/decisions/feed.md).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Generic, Protocol, TypeVar
from uuid import UUID

import structlog

from services.kit.bus import Bus
from services.kit.faults import describe_fault
from services.kit.follower import CaughtUp, E, FeedLimits, Follower, Gap, Hub, Positioned, until_available

__all__ = ["CaughtUp", "CursorBeyondHead", "Feed", "FeedLimits", "Follower", "Gap", "Positioned", "Source", "open_feed"]

log = structlog.get_logger()

TOPICS_PER_LOOK = 1_000

E_co = TypeVar("E_co", bound=Positioned, covariant=True)


class Source(Protocol[E_co]):
    """The table that a feed reads. Positions become visible in order: who sees n can read all before it that is kept.

    Both calls raise `errors.Unavailable` while the database is away; the feed tries again then.
    """

    async def read(self, topic: UUID, after: int, limit: int) -> Sequence[E_co]:
        """The first elements after a position, in order; a missing position is one that is no longer kept."""

    async def heads(self, topics: Sequence[UUID]) -> Mapping[UUID, int]:
        """The last position given in each topic, kept or not; 0, or no entry, where there is none."""


class CursorBeyondHead(Exception):
    """The cursor lies beyond the last position that was ever given: it is not a cursor of this topic."""


class Feed(Generic[E]):
    """All topics of one kind, as one process sees them. Made by `open_feed`."""

    def __init__(self, bus: Bus, source: Source[E], prefix: str, limits: FeedLimits) -> None:
        self._bus = bus
        self._source = source
        self._prefix = prefix
        self._limits = limits
        self._hubs: dict[UUID, tuple[Hub[E], Callable[[], None]]] = {}
        self._reads = asyncio.Semaphore(limits.reads_at_once)

    def publish(self, topic: UUID, elements: Sequence[E]) -> None:
        """Say that these elements, in order, are committed. Followers in this process get them without a read."""
        if not elements:
            return
        if topic in self._hubs:
            self._hubs[topic][0].offer(elements)
        self._bus.hint(self._bus_topic(topic), elements[-1].position)

    async def follow(self, topic: UUID, after: int) -> Follower[E]:
        """Follow a topic from a cursor; who gets the follower closes it.

        Raises CursorBeyondHead, and Unavailable while the database is away. A follower that exists outlasts that.
        """
        hub = self._enter(topic)
        try:
            # Only now, with the hub hearing hints, so that nothing falls between the look and the first hint.
            head = (await self._heads([topic])).get(topic, 0)
        except BaseException:
            self._leave(hub)
            raise
        if after > head:
            self._leave(hub)
            raise CursorBeyondHead
        hub.at_least(head)
        return Follower(hub, after, on_close=partial(self._leave, hub))

    async def look_for_ever(self) -> None:
        """Look for what no hint has told, in all followed topics at once."""
        while True:
            await asyncio.sleep(self._limits.look_seconds)
            topics = list(self._hubs)
            try:
                for start in range(0, len(topics), TOPICS_PER_LOOK):
                    heads = await until_available(partial(self._heads, topics[start : start + TOPICS_PER_LOOK]))
                    for topic, head in heads.items():
                        if topic in self._hubs:
                            self._hubs[topic][0].at_least(head)
            except Exception as error:  # noqa: BLE001  # without the next look, what a lost hint tells is lost
                log.warning("feed cannot look for news, trying again", fault=describe_fault(error))

    def _enter(self, topic: UUID) -> Hub[E]:
        if topic not in self._hubs:
            hub = Hub[E](topic, self._limits, self._reader(topic))
            self._hubs[topic] = hub, self._bus.subscribe(self._bus_topic(topic), hub.on_hint)
        hub = self._hubs[topic][0]
        hub.users += 1
        return hub

    def _leave(self, hub: Hub[E]) -> None:
        hub.users -= 1
        if not hub.users:
            _, unsubscribe = self._hubs.pop(hub.topic)
            unsubscribe()
            hub.stop()

    def _reader(self, topic: UUID) -> Callable[[int], Awaitable[Sequence[E]]]:
        async def read(after: int) -> Sequence[E]:
            async with self._reads:
                return await self._source.read(topic, after, self._limits.page_size)

        return read

    async def _heads(self, topics: Sequence[UUID]) -> Mapping[UUID, int]:
        async with self._reads:
            return await self._source.heads(topics)

    def _bus_topic(self, topic: UUID) -> str:
        return f"{self._prefix}:{topic}"


@asynccontextmanager
async def open_feed(
    bus: Bus, source: Source[E], prefix: str, limits: FeedLimits | None = None
) -> AsyncIterator[Feed[E]]:
    """A feed for the time of the block. `prefix` tells its hints from those of other feeds on the same bus."""
    feed = Feed(bus, source, prefix, limits or FeedLimits())
    looking = asyncio.create_task(feed.look_for_ever(), name=f"feed-{prefix}")
    try:
        yield feed
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
