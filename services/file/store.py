"""Where bytes are kept: a folder of this machine, or an object store that obstore speaks to.

Either is used from threads: obstore's own event loop ends badly with a process that exits, and a disk blocks anyway.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import google_crc32c
import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from services.file.models import Part
from services.kit.ids import uuid7
from services.kit.settings import SettingUnusable

T = TypeVar("T")
Bytes = bytes | bytearray


class StoreFailed(Exception):
    """The store could not do it now: it is full, away, or not ours to write."""


class PartLost(Exception):
    """The store has no such part, or has other bytes under its name. The message says which part and what is wrong."""


class Store(Protocol):
    """Bytes under names. Blocking; every method raises StoreFailed when it could not be done."""

    def put(self, key: str, data: Bytes) -> None:
        """Keep bytes under a new name; they are durable on return. If it raises, a part of them may be there."""

    def get(self, key: str) -> bytes:
        """The bytes under a name. Raises PartLost if there is none."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove names; one that is not there is fine."""


class Folder:
    """A store in a folder of this machine: one file a name, in 256 subfolders.

    A file is written under its own name, without a temporary one: names are never used again and nobody reads one that
    no manifest lists, so there is nothing that a rename would protect, and a process that dies leaves no file behind
    that is not known by name.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[Path] = set()

    def put(self, key: str, data: Bytes) -> None:
        """As Store.put: the file and the folder that lists it are on the disk."""
        path = self._root / key
        try:
            self._ensure_durable(path.parent)
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _fsync_folder(path.parent)
        except OSError as error:
            self._durable.discard(path.parent)  # It may have gone: the next time it is looked at again.
            raise StoreFailed(str(error)) from error

    def get(self, key: str) -> bytes:
        """As Store.get."""
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError as error:
            if self._root.is_dir():
                raise PartLost(f"part {key} is not there") from error
            raise StoreFailed(str(error)) from error  # The whole folder is away: a disk that is not mounted.
        except OSError as error:
            raise StoreFailed(str(error)) from error

    def delete(self, keys: Sequence[str]) -> None:
        """As Store.delete."""
        try:
            for key in keys:
                (self._root / key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreFailed(str(error)) from error

    def _ensure_durable(self, folder: Path) -> None:
        # Once a process and folder, also when it exists: the process that made it may not have come to its fsync.
        if folder not in self._durable:
            folder.mkdir(mode=0o700, exist_ok=True)
            _fsync_folder(folder.parent)
            self._durable.add(folder)


class Bucket:
    """A store behind obstore: S3, Google Cloud Storage, Azure, or memory."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def put(self, key: str, data: Bytes) -> None:
        """As Store.put."""
        try:
            obstore.put(self._objects, key, data, use_multipart=False)
        except (OSError, BaseError) as error:
            raise StoreFailed(_summary(error)) from error

    def get(self, key: str) -> bytes:
        """As Store.get."""
        try:
            return bytes(obstore.get(self._objects, key).bytes())
        except FileNotFoundError as error:
            raise PartLost(f"part {key} is not there") from error
        except (OSError, BaseError) as error:
            raise StoreFailed(_summary(error)) from error

    def delete(self, keys: Sequence[str]) -> None:
        """As Store.delete."""
        try:
            try:
                obstore.delete(self._objects, list(keys))
            except FileNotFoundError:  # Some stores stop there; so one by one.
                for key in keys:
                    with suppress(FileNotFoundError):
                        obstore.delete(self._objects, key)
        except (OSError, BaseError) as error:
            raise StoreFailed(_summary(error)) from error


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

    async def put(self, part: Part, data: Bytes, hashed: Callable[[Bytes], object]) -> None:
        """Store a part, durable on return, and hand its bytes to `hashed` in the same thread. Raises StoreFailed."""

        def work() -> None:
            hashed(data)
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

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


@asynccontextmanager
async def open_parts(url: str, *, threads: int) -> AsyncIterator[PartStore]:
    """The store at a URL, used with so many threads. A folder is created. Raises SettingUnusable."""
    try:
        store = await asyncio.to_thread(_opened, url)
    except (OSError, BaseError, ValueError) as error:
        raise SettingUnusable(f"PARLEY_FILE_STORE_URL: the store cannot be opened: {_summary(error)}") from error
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
    _fsync_folder(root.parent)
    return Folder(root)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _summary(error: Exception) -> str:
    """The first line: what follows in obstore's errors is the whole request."""
    return str(error).split("\n", 1)[0]
