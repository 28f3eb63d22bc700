"""Writes that wait at the same moment go together.

A statement that writes twenty rows costs little more than one that writes one: the work is in the round trip, in the
commit, and in waking up for its end.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")

MOST = 100


class Batched(Generic[K, T]):
    """Does `work` for the items of a key, those together that came while it was being done for others of the key.

    - Of one key it is done once at a time, and in the order in which items came.
    - `work` gives an item's failure, or None, for each item, in their order. What it raises is the failure of all.
    - A caller that is cancelled takes nothing from the others: its item is dealt with all the same, once it was taken.

    It is bound to the event loop that it is used in.
    """

    def __init__(
        self, work: Callable[[K, Sequence[T]], Awaitable[Sequence[Exception | None]]], *, most: int = MOST
    ) -> None:
        self._work = work
        self._most = most
        self._waiting: dict[K, deque[tuple[T, asyncio.Future[None]]]] = {}
        self._working: set[asyncio.Task[None]] = set()

    async def do(self, key: K, item: T) -> None:
        """Have it done. Raises the item's failure."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if key in self._waiting:
            self._waiting[key].append((item, done))
        else:
            self._waiting[key] = deque([(item, done)])
            # In a context of its own: it is made for many calls, and not on behalf of the one that came first.
            task = loop.create_task(self._work_for(key), name="batched-writes", context=Context())
            self._working.add(task)
            task.add_done_callback(self._working.discard)
        await done

    async def _work_for(self, key: K) -> None:
        waiting = self._waiting[key]
        while waiting:
            taken = [waiting.popleft() for _ in range(min(len(waiting), self._most))]
            wanted = [(item, done) for item, done in taken if not done.cancelled()]
            if wanted:
                await self._do(key, wanted)
        del self._waiting[key]

    async def _do(self, key: K, wanted: Sequence[tuple[T, asyncio.Future[None]]]) -> None:
        failures: Sequence[Exception | None]
        try:
            failures = await self._work(key, [item for item, _ in wanted])
        except Exception as error:  # noqa: BLE001  # it is the callers' to handle
            failures = [error] * len(wanted)
        for (_, done), failure in zip(wanted, failures, strict=True):
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)
