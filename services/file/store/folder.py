"""A store in a folder of this machine."""

import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from services.file.store.protocol import PAGE_OBJECTS, Buffer, PartMissing, StoredObject, StoreFailed, other_size

IOV_MAX = 1024  # what Linux and macOS take in one writev
_SUBFOLDER = re.compile("[0-9a-f]{2}")


class Folder:
    """A store in a folder of this machine: one file a name, in 256 subfolders.

    A file is written under its own name, without a temporary one: names are never used again and nobody reads one that
    no manifest lists, so there is nothing that a rename would protect, and a process that dies leaves no file behind
    that is not known by name.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity = _identity_of(root)
        self._durable: set[Path] = set()

    def put(self, key: str, data: Sequence[Buffer]) -> None:
        """As Store.put: the file and the folder that lists it are on the disk. If it raises, it removes what it can."""
        path = self._root / key
        if not self._is_there():
            self._durable.clear()
            raise StoreFailed(f"{self._root} is away, or another folder has its name")
        try:
            self._ensure_durable(path.parent)
            with ExitStack() as undoing:
                with path.open("xb", buffering=0) as file:
                    undoing.callback(_remove_if_possible, path)
                    _write(file.fileno(), data)
                    os.fsync(file.fileno())
                fsync_folder(path.parent)
                undoing.pop_all()
        except OSError as error:
            self._durable.discard(path.parent)  # It may have gone: the next time it is looked at again.
            raise StoreFailed(str(error)) from error

    def get(self, key: str) -> bytes:
        """As Store.get."""
        with self._failures(key):
            return (self._root / key).read_bytes()

    def read(self, key: str, sizes: Sequence[int]) -> Iterator[bytes]:
        """As Store.read."""
        with self._failures(key), (self._root / key).open("rb", buffering=0) as file:
            descriptor = file.fileno()
            if (size := os.fstat(descriptor).st_size) != sum(sizes):
                raise other_size(key, size, sum(sizes))
            for wanted in sizes:
                yield _read(descriptor, wanted)

    @contextmanager
    def _failures(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if self._is_there():
                raise PartMissing(f"part {key} is not there") from error
            raise StoreFailed(str(error)) from error
        except OSError as error:
            raise StoreFailed(str(error)) from error

    def _is_there(self) -> bool:
        """Whether it is the folder that it was: behind a disk that is not mounted any more there is an empty one."""
        identity = _identity_of(self._root)
        if self._identity is None:
            self._identity = identity
        return identity is not None and identity == self._identity

    def delete(self, keys: Sequence[str]) -> None:
        """As Store.delete."""
        try:
            for key in keys:
                (self._root / key).unlink(missing_ok=True)
        except OSError as error:
            raise StoreFailed(str(error)) from error

    def list(self, after: str = "") -> Iterator[Sequence[StoredObject]]:
        """As Store.list; the names of one subfolder are in memory at a time.

        Every file in a subfolder of parts is listed, also a stray one that is not named as a part. What lies outside
        of these subfolders (`lost+found` of a disk, a note) is none of the store's, and neither listed nor looked at.
        """
        try:
            objects = self._objects(after)
            while page := list(islice(objects, PAGE_OBJECTS)):
                yield page
        except OSError as error:
            raise StoreFailed(str(error)) from error

    def _objects(self, after: str) -> Iterator[StoredObject]:
        with os.scandir(self._root) as found:
            subfolders = sorted(entry.name for entry in found if _SUBFOLDER.fullmatch(entry.name) and entry.is_dir())
        for subfolder in subfolders:
            if f"{subfolder}/" < after[:3]:
                continue  # All of its names are before it.
            with os.scandir(self._root / subfolder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            for entry in entries:
                if (key := f"{subfolder}/{entry.name}") > after and not entry.is_dir(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # It was removed meanwhile.
                        stat = entry.stat(follow_symlinks=False)
                        yield StoredObject(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def _ensure_durable(self, folder: Path) -> None:
        # Once a process and folder, also when it exists: the process that made it may not have come to its fsync.
        if folder not in self._durable:
            folder.mkdir(mode=0o700, exist_ok=True)
            fsync_folder(folder.parent)
            self._durable.add(folder)


def _identity_of(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def fsync_folder(folder: Path) -> None:
    """Bring what a folder lists to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: Sequence[Buffer]) -> None:
    """Write all of the pieces, however few of their bytes the system takes at a time."""
    left = deque(memoryview(piece) for piece in data if piece)
    while left:
        written = os.writev(descriptor, list(islice(left, IOV_MAX)))
        while left and written >= len(left[0]):
            written -= len(left.popleft())
        if written:
            left[0] = left[0][written:]


def _read(descriptor: int, size: int) -> bytes:
    """The next bytes, as many; fewer if the file ends before."""
    data = os.read(descriptor, size)
    while data and len(data) < size:
        more = os.read(descriptor, size - len(data))
        if not more:
            break
        data += more
    return data


def _remove_if_possible(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
