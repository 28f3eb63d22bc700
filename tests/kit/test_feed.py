"""The feed: whatever happens to hints, readers and the table, a follower gets every element once and in order."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.kit.bus import LocalBus
from services.kit.errors import DatabaseUnavailable
from services.kit.feed import CaughtUp, CursorBeyondHead, Feed, FeedLimits, Follower, Gap, open_feed

TOPIC = uuid4()
LIMITS = FeedLimits(page_size=7, live_queue=5, look_seconds=0.02)
NO_LOOKING = FeedLimits(page_size=7, live_queue=5, look_seconds=3600)
Open = Callable[..., Awaitable[Feed[Any]]]


@dataclass(frozen=True)
class Element:
    position: int


class Table:
    """An append-only table in memory that counts its reads and can be away."""

    def __init__(self, *, rows: int = 0) -> None:
        self.rows: dict[UUID, list[Element]] = {TOPIC: [Element(n + 1) for n in range(rows)]}
        self.head = rows
        self.reads = 0
        self.away = False
        self.on_read: Callable[[], None] = lambda: None
        self.on_heads: Callable[[], None] = lambda: None

    def append(self, topic: UUID = TOPIC) -> Element:
        self.head += 1
        element = Element(self.head)
        self.rows[topic].append(element)
        return element

    def forget(self, first: int, last: int) -> None:
        self.rows[TOPIC] = [element for element in self.rows[TOPIC] if not first <= element.position <= last]

    async def read(self, topic: UUID, after: int, limit: int) -> Sequence[Element]:
        await self._reach()
        self.reads += 1
        found = [element for element in self.rows.get(topic, []) if element.position > after][:limit]
        self.on_read()
        await asyncio.sleep(0)
        return found

    async def heads(self, topics: Sequence[UUID]) -> Mapping[UUID, int]:
        await self._reach()
        found = {topic: self.head for topic in topics if topic in self.rows}
        self.on_heads()
        await asyncio.sleep(0)
        return found

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise DatabaseUnavailable


class FaultyBus(LocalBus):
    """Loses, repeats and delays hints as the seed says."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def hint(self, topic: str, position: int) -> None:
        for _ in range(self._random.choice((0, 1, 1, 2))):
            delay = self._random.choice((0.0, 0.001, 0.005))
            asyncio.get_running_loop().call_later(delay, super().hint, topic, position)


class DeafBus(LocalBus):
    """Loses every hint."""

    def hint(self, topic: str, position: int) -> None:
        pass


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_(bus: LocalBus, table: Table, limits: FeedLimits = LIMITS) -> Feed[Element]:
            feed: AbstractAsyncContextManager[Feed[Element]] = open_feed(bus, table, "test", limits)
            return await stack.enter_async_context(feed)

        yield open_


async def take(follower: Follower[Element], until: int, *, pause: Callable[[], float] | None = None) -> list[int]:
    """The positions that a follower gives, up to one."""
    seen: list[int] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1] < until:
            item = await anext(follower)
            assert not isinstance(item, Gap)
            if not isinstance(item, CaughtUp):
                seen += [element.position for element in item]
            if pause is not None:
                await asyncio.sleep(pause())
    return seen


async def take_all(follower: Follower[Element]) -> list[int]:
    """The positions until CaughtUp."""
    seen: list[int] = []
    async with asyncio.timeout(10):
        async for item in follower:
            if isinstance(item, CaughtUp):
                return seen
            assert not isinstance(item, Gap)
            seen += [element.position for element in item]
    raise AssertionError("a follower never ends by itself")


@pytest.mark.parametrize("seed", range(12))
async def test_every_follower_of_every_process_gets_every_element_once_and_in_order(opened: Open, seed: int) -> None:
    rng = random.Random(seed)
    table, bus, total = Table(rows=rng.randrange(30)), FaultyBus(seed), 150
    feeds = [await opened(bus, table), await opened(bus, table)]
    last = table.head + total

    async def append() -> None:
        left = total
        while left:
            elements = [table.append() for _ in range(min(left, rng.choice((1, 1, 2, 9))))]
            left -= len(elements)
            if rng.random() < 0.9:  # A process that dies after its commit publishes nothing.
                rng.choice(feeds).publish(TOPIC, elements)
            await asyncio.sleep(rng.choice((0, 0, 0.001, 0.004)))

    async def read(after: int, patience: float) -> list[int]:
        with await rng.choice(feeds).follow(TOPIC, after) as follower:
            return await take(follower, last, pause=lambda: rng.random() * patience)

    cursors = [rng.randrange(table.head + 1) for _ in range(6)]
    readers = [asyncio.create_task(read(after, rng.choice((0, 0.01)))) for after in cursors]
    await append()
    for after, seen in zip(cursors, await asyncio.gather(*readers), strict=True):
        assert seen == list(range(after + 1, last + 1))


async def test_a_reader_who_comes_back_with_its_cursor_misses_nothing_and_gets_nothing_twice(opened: Open) -> None:
    table = Table(rows=40)
    feed = await opened(LocalBus(), table)
    seen: list[int] = []
    async with asyncio.timeout(10):
        while not seen or seen[-1] < 60:
            with await feed.follow(TOPIC, seen[-1] if seen else 0) as follower:
                item = await anext(follower)
                if not isinstance(item, CaughtUp | Gap):
                    seen += [element.position for element in item]
            if table.head < 60:
                feed.publish(TOPIC, [table.append()])
    assert seen == list(range(1, 61))


async def test_caught_up_is_told_once_after_what_was_there(opened: Open) -> None:
    table = Table(rows=20)
    feed = await opened(LocalBus(), table)
    with await feed.follow(TOPIC, 3) as follower:
        items: list[Any] = [await anext(follower) for _ in range(4)]
        assert [e.position for page in items[:3] for e in page] == list(range(4, 21))
        assert items[3] == CaughtUp(20)
        feed.publish(TOPIC, [table.append()])
        assert await anext(follower) == [Element(21)]


async def test_a_follower_at_the_head_is_caught_up_without_a_read_of_the_table(opened: Open) -> None:
    table = Table(rows=20)
    feed = await opened(LocalBus(), table)
    with await feed.follow(TOPIC, 20) as follower:
        assert await anext(follower) == CaughtUp(20)
    assert table.reads == 0


async def test_what_this_process_commits_reaches_all_its_followers_without_a_read(opened: Open) -> None:
    table = Table()
    feed = await opened(LocalBus(), table, NO_LOOKING)
    followers = [await feed.follow(TOPIC, 0) for _ in range(50)]
    for follower in followers:
        assert await take_all(follower) == []
    reads = table.reads
    element = table.append()
    feed.publish(TOPIC, [element])
    for follower in followers:
        batch: Any = await anext(follower)
        assert batch[0] is element  # the same object, so that it is serialised once for all
        follower.close()
    assert table.reads == reads


async def test_what_another_process_commits_is_read_once_for_all_followers(opened: Open) -> None:
    table, bus = Table(), LocalBus()
    here, there = await opened(bus, table, NO_LOOKING), await opened(bus, table, NO_LOOKING)
    followers = [await here.follow(TOPIC, 0) for _ in range(50)]
    for follower in followers:
        assert await take_all(follower) == []
    reads = table.reads
    there.publish(TOPIC, [table.append()])
    for follower in followers:
        assert await take(follower, 1) == [1]
        follower.close()
    assert table.reads == reads + 1


async def test_a_lost_hint_costs_no_more_than_the_next_look(opened: Open) -> None:
    table = Table()
    feed = await opened(DeafBus(), table)
    with await feed.follow(TOPIC, 0) as follower:
        assert await take_all(follower) == []
        table.append()
        assert await take(follower, 1) == [1]


async def test_a_look_that_fails_is_not_the_last(opened: Open) -> None:
    table = Table(rows=1)
    feed = await opened(DeafBus(), table)
    failed = asyncio.Event()

    def fail_once() -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("a statement that took too long")

    with await feed.follow(TOPIC, 1) as follower:
        assert await take_all(follower) == []
        table.on_heads = fail_once
        await failed.wait()
        table.append()
        assert await take(follower, 2) == [2]


async def test_a_resync_of_the_bus_makes_followers_look_at_once(opened: Open) -> None:
    table, bus = Table(), LocalBus()
    feed = await opened(bus, table, NO_LOOKING)
    with await feed.follow(TOPIC, 0) as follower:
        assert await take_all(follower) == []
        table.append()
        bus.resync()
        assert await take(follower, 1) == [1]


async def test_an_element_published_before_the_one_that_it_follows_waits_for_it(opened: Open) -> None:
    table = Table()
    feed = await opened(DeafBus(), table, NO_LOOKING)
    with await feed.follow(TOPIC, 0) as follower:
        assert await take_all(follower) == []
        first, second = table.append(), table.append()
        feed.publish(TOPIC, [second])
        feed.publish(TOPIC, [first])
        assert await take(follower, 2) == [1, 2]


async def test_a_hint_far_beyond_the_table_is_harmless(opened: Open) -> None:
    table, bus = Table(rows=1), LocalBus()
    feed = await opened(bus, table, NO_LOOKING)
    with await feed.follow(TOPIC, 0) as follower:
        assert await take_all(follower) == [1]
        bus.hint(f"test:{TOPIC}", 10**12)
        feed.publish(TOPIC, [table.append()])
        assert await take(follower, 2) == [2]


async def test_something_appended_during_the_first_look_is_not_lost(opened: Open) -> None:
    """Hints are heard before the look, so that one between the look and going live counts."""
    table = Table(rows=1)
    feed = await opened(LocalBus(), table, NO_LOOKING)
    table.on_heads = lambda: feed.publish(TOPIC, [table.append()])
    with await feed.follow(TOPIC, 1) as follower:
        assert await take(follower, 2) == [2]


async def test_a_slow_reader_holds_a_bounded_queue_and_still_gets_everything(opened: Open) -> None:
    table = Table()
    feed = await opened(LocalBus(), table, NO_LOOKING)
    with await feed.follow(TOPIC, 0) as slow, await feed.follow(TOPIC, 0) as quick:
        assert await take_all(slow) == await take_all(quick) == []
        for n in range(1, 1001):
            feed.publish(TOPIC, [table.append()])
            assert len(slow._queue) <= NO_LOOKING.live_queue
            assert await take(quick, n) == [n]
        assert await take(slow, 1000) == list(range(1, 1001))


async def test_removed_elements_are_told_as_gaps_wherever_they_lie(opened: Open) -> None:
    table = Table(rows=20)
    table.forget(1, 4)
    table.forget(9, 11)
    table.forget(19, 20)
    feed = await opened(LocalBus(), table)
    told: list[object] = []
    async with asyncio.timeout(5):
        with await feed.follow(TOPIC, 0) as follower:
            async for item in follower:
                told += [item] if isinstance(item, CaughtUp | Gap) else [e.position for e in item]
                if isinstance(item, CaughtUp):
                    break
    assert told == [Gap(1, 4), 5, 6, 7, 8, Gap(9, 11), *range(12, 19), Gap(19, 20), CaughtUp(20)]


async def test_elements_removed_before_a_live_follower_got_them_are_told_as_a_gap(opened: Open) -> None:
    table = Table(rows=1)
    feed = await opened(DeafBus(), table)
    with await feed.follow(TOPIC, 1) as follower:
        assert await anext(follower) == CaughtUp(1)
        for _ in range(3):
            table.append()
        table.forget(2, 3)
        async with asyncio.timeout(5):
            assert await anext(follower) == Gap(2, 3)
            assert await anext(follower) == [Element(4)]


async def test_a_cursor_beyond_the_head_is_refused_and_leaves_nothing_behind(opened: Open) -> None:
    feed = await opened(LocalBus(), Table(rows=3))
    with pytest.raises(CursorBeyondHead):
        await feed.follow(TOPIC, 4)
    assert not feed._hubs


async def test_a_follower_outlasts_a_database_that_is_away(opened: Open) -> None:
    table = Table(rows=20)
    feed = await opened(LocalBus(), table)
    with await feed.follow(TOPIC, 0) as behind, await feed.follow(TOPIC, 20) as live:
        assert await take_all(live) == []
        table.away = True
        feed.publish(TOPIC, [table.append()])
        bus_reader = asyncio.create_task(take(behind, 22))
        table.append()
        assert await take(live, 21) == [21]
        asyncio.get_running_loop().call_later(0.3, setattr, table, "away", False)
        assert await take(live, 22) == [22]
        assert await bus_reader == list(range(1, 23))


async def test_following_a_database_that_is_away_is_refused(opened: Open) -> None:
    table = Table()
    table.away = True
    feed = await opened(LocalBus(), table)
    with pytest.raises(DatabaseUnavailable):
        await feed.follow(TOPIC, 0)
    assert not feed._hubs


async def test_a_fault_in_the_table_reaches_who_follows(opened: Open) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    table, bus = Table(), LocalBus()
    feed = await opened(bus, table, NO_LOOKING)
    with await feed.follow(TOPIC, 0) as follower:
        assert await take_all(follower) == []
        table.on_read = fail
        table.append()
        bus.resync()
        with pytest.raises(ZeroDivisionError):
            await anext(follower)


async def test_an_ended_follower_raises_its_reason_whatever_it_waits_for(opened: Open) -> None:
    table = Table(rows=1)
    feed = await opened(LocalBus(), table)
    with await feed.follow(TOPIC, 1) as live, await feed.follow(TOPIC, 0) as behind:
        assert await take_all(live) == []
        table.away = True
        waiting = [asyncio.create_task(anext(follower)) for follower in (live, behind)]
        await asyncio.sleep(0.01)
        for follower in (live, behind):
            follower.end(KeyError("left"))
        for task in waiting:
            with pytest.raises(KeyError):
                async with asyncio.timeout(5):
                    await task


async def test_a_topic_that_nobody_follows_any_more_costs_nothing(opened: Open) -> None:
    table, bus = Table(rows=5), LocalBus()
    feed = await opened(bus, table)
    with await feed.follow(TOPIC, 0) as follower:
        assert await take_all(follower) == [1, 2, 3, 4, 5]
    follower.close()
    assert not feed._hubs
    assert not bus._listeners
