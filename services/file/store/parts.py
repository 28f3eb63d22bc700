"""Parts in a store."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

import google_crc32c

from services.file.models import Part
from services.file.store.protocol import PartLost, Store, StoredObject, StoreFailed
from services.kit.ids import uuid7

T = TypeVar("T")


class PartStore:
    """Parts in a store, verified when they are read, without holding up the event loop."""

    def __init__(self, store: Store, threads: ThreadPoolExecutor, *, patience: float) -> None:
        """Uses these threads; what has waited for one for longer than `patience` seconds is StoreFailed."""
        self._store = store
        self._threads = threads
        self._patience = patience

    @staticmethod
    def new_key() -> str:
        """A name that was never used. It begins with its last, random digits, which spread the names over folders."""
        name = uuid7().hex
        return f"{name[-2:]}/{name}"

    async def put(self, part: Part, data: Sequence[bytes], hashed: Callable[[bytes], object]) -> None:
        """Store a part that comes in pieces, and hand each to `hashed`, in order, in the same thread.

        It is durable on return, and nobody may change the pieces before. Raises StoreFailed.
        """

        def work() -> None:
            for piece in data:
                hashed(piece)
            self._store.put(part.key, data)

        await self._run(work)

    async def get(self, part: Part) -> bytes:
        """All bytes of a part, which are what was put. Raises PartLost and StoreFailed."""

        def work() -> bytes:
            data = self._store.get(part.key)
            if len(data) != part.size_bytes:
                raise PartLost(f"part {part.key} has {len(data)} bytes in place of {part.size_bytes}")
            if google_crc32c.value(data) != part.crc32c:
                raise PartLost(f"part {part.key} has another crc32c")
            return data

        return await self._run(work)

    async def delete(self, keys: Sequence[str]) -> None:
        """Remove parts; one that is not there is fine. Raises StoreFailed."""
        await self._run(lambda: self._store.delete(keys))

    async def list_pages(self, after: str = "") -> AsyncGenerator[Sequence[StoredObject], None]:
        """As Store.list: what is in the store, whether a manifest lists it or not. Raises StoreFailed.

        What somebody else put there is listed, too: StoredObject.is_part tells.
        """
        pages = self._store.list(after)
        while page := await self._run(lambda: next(pages, None)):
            yield page

    async def _run(self, work: Callable[[], T]) -> T:
        asked = monotonic()

        def in_turn() -> T:
            # When the store hangs, whoever waits for a thread would wait for those before, one after the other.
            if monotonic() - asked > self._patience:
                raise StoreFailed("its threads are all waiting for it")
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._threads, in_turn)
