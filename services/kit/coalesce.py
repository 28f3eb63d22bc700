"""Reads that wait at the same moment share one query.

A query of one row costs nearly as much as one of twenty: the work is in the round trip, and in waking up for its end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import Context
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_KEYS = 100
MAX_QUERIES = 4
PATIENCE = 0.002


class Coalesced(Generic[K, V]):
    """Answers `get` for many callers with one `load`, which gives what there is of the keys that it is given.

    - A value is read after it was asked for: a query that is under way takes nobody on.
    - A key says everything that decides who may see its value, such as the user's id: whoever asks for another key gets
      none of it. Callers of one key get the same object, and must leave it as it is.
    - If a load fails, its callers fail with that error, and nobody else.
    - A caller that is cancelled takes nothing from the others. What nobody waits for any more is not loaded.

    A caller who is alone is served at once. Where others come all the time, a query starts when as many wait as took
    part in the last one or came during it, and at the latest after `patience` seconds: without that, a process that is
    busy asks for nearly every row by itself. After as long, a query starts though another is under way, up to
    `max_queries`, so that one that hangs does not hold up all. None has more than `max_keys`.

    It is bound to the event loop that it is used in.
    """

    def __init__(
        self,
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        max_keys: int = MAX_KEYS,
        max_queries: int = MAX_QUERIES,
        patience: float = PATIENCE,
    ) -> None:
        self._load = load
        self._max_keys = max_keys
        self._max_queries = max_queries
        self._patience = patience
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._callers = 0
        self._expected = 1
        self._timer: asyncio.TimerHandle | None = None
        self._queries: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V | None:
        """The value of a key; None if there is none. Raises whatever `load` raises."""
        answer: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        self._callers += 1
        self._consider()
        return await answer

    def _consider(self) -> None:
        """Start a query if there is a reason not to wait, and otherwise see to it that the wait ends."""
        if not self._waiting:
            return
        if len(self._waiting) >= self._max_keys or (not self._queries and self._callers >= self._expected):
            self._start()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._queries) < self._max_queries and (wanted := self._take()):
            # In a context of its own: it is made for many calls, and not on behalf of the one that came first.
            query = asyncio.get_running_loop().create_task(self._query(wanted), name="shared-query", context=Context())
            self._queries.add(query)
            query.add_done_callback(self._end)

    def _end(self, query: asyncio.Task[None]) -> None:
        self._queries.discard(query)
        self._consider()

    async def _query(self, wanted: Mapping[K, Sequence[asyncio.Future[V | None]]]) -> None:
        try:
            found = await self._load(list(wanted))
        except asyncio.CancelledError:
            for _, answer in _open(wanted):
                answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # it is the callers' to handle
            for _, answer in _open(wanted):
                answer.set_exception(error)
        else:
            for key, answer in _open(wanted):
                answer.set_result(found.get(key))
        finally:
            self._expected = self._callers + sum(map(len, wanted.values()))

    def _take(self) -> dict[K, list[asyncio.Future[V | None]]]:
        """Those who have waited the longest, of as many keys as one query may have."""
        taken: dict[K, list[asyncio.Future[V | None]]] = {}
        for key in list(self._waiting):
            if len(taken) == self._max_keys:
                break
            answers = self._waiting.pop(key)
            self._callers -= len(answers)
            if answers := [answer for answer in answers if not answer.done()]:
                taken[key] = answers
        return taken


def _open(wanted: Mapping[K, Sequence[asyncio.Future[V | None]]]) -> Iterator[tuple[K, asyncio.Future[V | None]]]:
    """The answers that somebody waits for still."""
    return ((key, answer) for key, answers in wanted.items() for answer in answers if not answer.done())
