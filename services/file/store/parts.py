"""Parts in a store."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import TypeVar

import google_crc32c

from services.file.crc32c import combine
from services.file.models import Part, Piece
from services.file.store.protocol import PartLost, Store, StoredObject, StoreFailed, other_size
from services.kit.ids import uuid7

T = TypeVar("T")


class PartStore:
    """Parts in a store, verified when they are read, without holding up the event loop."""

    def __init__(self, store: Store, threads: ThreadPoolExecutor, *, patience: float) -> None:
        """Uses these threads; what waits for one while none gets done for `patience` seconds is StoreFailed."""
        self._store = store
        self._last_done = monotonic()
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
                raise other_size(part.key, len(data), part.size_bytes)
            if google_crc32c.value(data) != part.crc32c:
                raise PartLost(f"part {part.key} has another crc32c")
            return data

        return await self._run(work)

    async def read(
        self, part: Part, start: int, end: int, piece_bytes: int, pack: Callable[[Piece], T]
    ) -> tuple[list[T], int]:
        """What a part has from one offset in the file to another, in pieces of this size, and the crc32c of that.

        All of the part is verified before any of it comes out. Each piece comes as `pack` made it, which runs in a
        thread. Raises PartLost and StoreFailed.
        """
        sizes = [
            *_cut(start - part.offset_bytes, piece_bytes),
            *_cut(end - start, piece_bytes),
            *_cut(part.end - end, piece_bytes),
        ]

        def work() -> tuple[list[T], int]:
            packed: list[T] = []
            of_all, of_range, at = 0, 0, part.offset_bytes
            for run in self._store.read(part.key, sizes):
                crc32c = google_crc32c.value(run)
                of_all = combine(of_all, crc32c, len(run)) if at > part.offset_bytes else crc32c
                if start <= at < end:
                    of_range = combine(of_range, crc32c, len(run)) if packed else crc32c
                    packed.append(pack(Piece(at, run, crc32c)))
                at += len(run)
            if of_all != part.crc32c:
                raise PartLost(f"part {part.key} has another crc32c")
            return packed, of_range

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
            if monotonic() - max(asked, self._last_done) > self._patience:
                raise StoreFailed("its threads are all waiting for it")
            result = work()
            self._last_done = monotonic()
            return result

        return await asyncio.get_running_loop().run_in_executor(self._threads, in_turn)


def _cut(size: int, piece_bytes: int) -> list[int]:
    """The sizes of the pieces of a run."""
    return [min(piece_bytes, size - at) for at in range(0, size, piece_bytes)]
