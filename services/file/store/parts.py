"""Parts in a store, and how it is opened."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import google_crc32c
from obstore.exceptions import BaseError
from obstore.store import from_url

from services.file.models import Part
from services.file.store.bucket import Bucket, summary
from services.file.store.folder import Folder, fsync_folder
from services.file.store.protocol import Buffer, PartLost, Store, StoredObject
from services.kit.ids import uuid7
from services.kit.settings import SettingUnusable

T = TypeVar("T")


class PartStore:
    """Parts in a store, verified when they are read, without holding up the event loop."""

    def __init__(self, store: Store, threads: ThreadPoolExecutor) -> None:
        self._store = store
        self._threads = threads

    @staticmethod
    def new_key() -> str:
        """A name that was never used. It begins with its last, random digits, which spread the names over folders."""
        name = uuid7().hex
        return f"{name[-2:]}/{name}"

    async def put(self, part: Part, data: Sequence[Buffer], hashed: Callable[[Buffer], object]) -> None:
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
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


@asynccontextmanager
async def open_parts(url: str, *, threads: int) -> AsyncIterator[PartStore]:
    """The store at a URL, used with so many threads. A folder is created. Raises SettingUnusable."""
    try:
        store = await asyncio.to_thread(_opened, url)
    except (OSError, BaseError, ValueError) as error:
        raise SettingUnusable(f"PARLEY_FILE_STORE_URL: the store cannot be opened: {summary(error)}") from error
    pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
    try:
        yield PartStore(store, pool)
    finally:
        await asyncio.to_thread(pool.shutdown)


def _opened(url: str) -> Store:
    parts = urlsplit(url)
    if parts.scheme != "file":
        return Bucket(from_url(url))
    root = Path(unquote(parts.path))
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fsync_folder(root.parent)
    return Folder(root)
