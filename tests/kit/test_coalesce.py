"""Reads that share a query: everybody gets their own answer, as if they had asked alone."""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar

import pytest

from services.kit.coalesce import Coalesced
from services.kit.errors import DatabaseUnavailable

DEADLINE = 5.0
Key = tuple[str, int]


class Table:
    """Rows by owner and number; each query waits until it is let go."""

    def __init__(self) -> None:
        self.rows: dict[Key, str] = {}
        self.queries: list[list[Key]] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._begun = asyncio.Semaphore(0)

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, str]:
        self.queries.append(list(keys))
        self._begun.release()
        found = {key: self.rows[key] for key in keys if key in self.rows}
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        return found

    async def has_begun(self, queries: int = 1) -> None:
        """Wait until so many more queries have begun."""
        async with asyncio.timeout(DEADLINE):
            for _ in range(queries):
                await self._begun.acquire()


@pytest.fixture
async def table() -> Table:
    return Table()


async def test_a_caller_who_is_alone_waits_for_nobody(table: Table) -> None:
    table.rows["ann", 1] = "one"
    reads = Coalesced(table.load, patience=2 * DEADLINE)
    async with asyncio.timeout(DEADLINE):
        assert [await reads.get(("ann", 1)) for _ in range(3)] == ["one"] * 3
        assert await reads.get(("ann", 2)) is None
    assert len(table.queries) == 4


async def test_those_who_wait_while_a_query_is_under_way_share_the_next(table: Table) -> None:
    table.rows = {("ann", number): f"row {number}" for number in range(10)}
    reads = Coalesced(table.load)
    table.gate.clear()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        first = group.create_task(reads.get(("ann", 0)))
        await table.has_begun()
        others = [group.create_task(reads.get(("ann", number))) for number in [*range(12), 3]]
        await asyncio.sleep(0)
        table.gate.set()
    assert first.result() == "row 0"
    assert [other.result() for other in others] == [*(f"row {n}" for n in range(10)), None, None, "row 3"]
    assert [len(query) for query in table.queries] == [1, 12]


async def test_a_value_is_read_after_it_was_asked_for(table: Table) -> None:
    reads = Coalesced(table.load)
    table.rows["ann", 1] = "before"
    table.gate.clear()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        early = group.create_task(reads.get(("ann", 1)))
        await table.has_begun()
        table.rows["ann", 1] = "after"
        late = group.create_task(reads.get(("ann", 1)))
        await asyncio.sleep(0)
        table.gate.set()
    assert (early.result(), late.result()) == ("before", "after")


async def test_who_asks_in_the_name_of_another_gets_nothing_of_theirs(table: Table) -> None:
    table.rows["ann", 1] = "ann's"
    reads = Coalesced(table.load)
    table.gate.clear()
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        group.create_task(reads.get(("ann", 0)))
        await table.has_begun()
        ann = group.create_task(reads.get(("ann", 1)))
        bob = group.create_task(reads.get(("bob", 1)))
        await asyncio.sleep(0)
        table.gate.set()
    assert (ann.result(), bob.result()) == ("ann's", None)
    assert table.queries[1] == [("ann", 1), ("bob", 1)]


async def test_a_cancelled_caller_takes_nothing_from_the_others(table: Table) -> None:
    table.rows = {("ann", 1): "one", ("ann", 2): "two"}
    reads = Coalesced(table.load)
    table.gate.clear()
    begun = [asyncio.create_task(reads.get(("ann", 1))) for _ in range(2)]
    await table.has_begun()
    waiting = [asyncio.create_task(reads.get(("ann", number))) for number in (1, 2, 3)]
    await asyncio.sleep(0)
    for caller in (begun[0], waiting[0], waiting[2]):
        caller.cancel()
    await asyncio.sleep(0)
    table.gate.set()
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*begun, *waiting, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False, True, False, True]
    assert (answers[1], answers[3]) == ("one", "two")
    # What nobody waits for any more is not asked for.
    assert [("ann", 3) in query for query in table.queries] == [False] * len(table.queries)


async def test_when_all_callers_of_a_query_are_cancelled_the_next_are_served(table: Table) -> None:
    table.rows["ann", 1] = "one"
    reads = Coalesced(table.load)
    table.gate.clear()
    callers = [asyncio.create_task(reads.get(("ann", 1))) for _ in range(4)]
    await table.has_begun()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    table.gate.set()
    async with asyncio.timeout(DEADLINE):
        assert await reads.get(("ann", 1)) == "one"


async def test_who_is_left_alone_waits_once_for_the_others_and_then_no_more(table: Table) -> None:
    table.rows["ann", 1] = "one"
    reads = Coalesced(table.load, patience=0.2)
    await asyncio.gather(*(reads.get(("ann", 1)) for _ in range(4)))
    async with asyncio.timeout(DEADLINE):
        for _ in range(100):
            assert await reads.get(("ann", 1)) == "one"


async def test_a_failure_is_that_of_its_own_callers(table: Table) -> None:
    table.rows["ann", 1] = "one"
    table.failures = [DatabaseUnavailable()]
    reads = Coalesced(table.load)
    table.gate.clear()
    async with asyncio.timeout(DEADLINE):
        failing = asyncio.create_task(reads.get(("ann", 1)))
        await table.has_begun()
        others = [asyncio.create_task(reads.get(("ann", 1))) for _ in range(3)]
        await asyncio.sleep(0)
        table.gate.set()
        with pytest.raises(DatabaseUnavailable):
            await failing
        assert await asyncio.gather(*others) == ["one"] * 3
        table.failures = [DatabaseUnavailable()]
        together = [reads.get(("ann", 1)) for _ in range(3)]
        answers = await asyncio.gather(*together, return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 3


async def test_a_query_has_no_more_keys_than_it_may(table: Table) -> None:
    table.rows = {("ann", number): f"row {number}" for number in range(25)}
    reads = Coalesced(table.load, max_keys=10, max_queries=1)
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*(reads.get(("ann", number)) for number in range(25)), reads.get(("ann", 24)))
    assert answers == [*(f"row {n}" for n in range(25)), "row 24"]
    assert max(len(query) for query in table.queries) == 10
    assert sum(len(query) for query in table.queries) == 25


async def test_a_query_that_hangs_holds_up_nobody_who_comes_later(table: Table) -> None:
    table.rows["ann", 1] = "one"
    hung = asyncio.Event()

    async def load(keys: Sequence[Key]) -> Mapping[Key, str]:
        if ("ann", 0) in keys:
            await hung.wait()
        return await table.load(keys)

    reads = Coalesced(load, patience=0.001, max_queries=2)
    stuck = asyncio.create_task(reads.get(("ann", 0)))
    async with asyncio.timeout(DEADLINE):
        await asyncio.sleep(0)
        assert await asyncio.gather(*(reads.get(("ann", 1)) for _ in range(5))) == ["one"] * 5
        hung.set()
        assert await stuck is None


async def test_no_more_queries_are_under_way_than_may_be(table: Table) -> None:
    table.rows = {("ann", number): f"row {number}" for number in range(9)}
    reads = Coalesced(table.load, patience=0, max_keys=2, max_queries=2)
    table.gate.clear()
    callers = [asyncio.create_task(reads.get(("ann", number))) for number in range(9)]
    await table.has_begun(2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(table.queries) == 2
    table.gate.set()
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.gather(*callers) == [f"row {number}" for number in range(9)]


async def test_a_query_runs_on_behalf_of_no_single_caller() -> None:
    whose = ContextVar("whose", default="nobody's")

    async def load(keys: Sequence[str]) -> Mapping[str, str]:
        return dict.fromkeys(keys, whose.get())

    whose.set("ann's")
    assert await Coalesced(load).get("key") == "nobody's"
