"""Where the bytes of a download go: a file, which is there once it is whole, or stdout."""

import asyncio
import fcntl
import os
import select
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from services.cli.client.ending import Failed
from services.cli.files.blocking import in_the_background
from services.cli.files.kept import Kept
from services.cli.files.names import PART_SUFFIX, shown

READ_BYTES = 1024 * 1024


class Target(Protocol):
    """Bytes in order, each of them once."""

    size: int
    """How many are there."""

    async def write(self, data: bytes) -> None:
        """Put them behind the others. Raises Failed."""

    def digest(self) -> bytes:
        """The SHA-256 of all that are there."""


class PartFile:
    """`NAME.part` beside a file that is to be, which takes its place when it is whole.

    What an earlier run has left in it is gone on with, if that was of the same download: that is kept in a place.
    """

    def __init__(self, path: Path, kept: Kept, download: dict[str, Any], *, force: bool) -> None:
        """Take hold of it. Raises Failed where something is in the way that must not be lost."""
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX)
        self._kept = kept
        self._force = force
        self._refuse_to_overwrite()
        try:
            self._descriptor = self._open()
        except OSError as error:
            raise Failed(f"{shown(self.part)} cannot be written: {error.strerror}") from error
        try:
            self._take_hold(download)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._sha256 = sha256()
        self.size = 0

    async def take_stock(self) -> None:
        """Find out what is there already."""
        while data := await asyncio.to_thread(os.pread, self._descriptor, READ_BYTES, self.size):
            self._sha256.update(data)
            self.size += len(data)

    async def write(self, data: bytes) -> None:
        """As Target has it."""
        try:
            await asyncio.to_thread(self._write, data, self.size)
        except OSError as error:
            raise Failed(f"{shown(self.part)} cannot be written: {error.strerror}") from error
        self._sha256.update(data)
        self.size += len(data)

    def digest(self) -> bytes:
        """As Target has it."""
        return self._sha256.digest()

    async def finish(self) -> None:
        """Put the file in its place, whole and for good. Raises Failed."""
        try:
            await asyncio.to_thread(self._put_in_place)
        except OSError as error:
            raise Failed(f"{shown(self.path)} cannot be written: {error.strerror}") from error
        self._kept.drop()

    def mistrust(self) -> None:
        """Let no other run go on with what is there."""
        self._kept.drop()

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def _refuse_to_overwrite(self) -> None:
        try:
            kind = self.path.lstat().st_mode
        except OSError:
            return  # Whatever it is that is wrong, opening the part tells.
        if not stat.S_ISREG(kind) and not stat.S_ISLNK(kind):  # a folder, or a device such as /dev/null
            raise Failed(f"{shown(self.path)} is no regular file")
        if not self._force:
            raise Failed(f"{shown(self.path)} is there already: --force overwrites it")

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(self.part, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return os.open(self.part, flags)

    def _take_hold(self, download: dict[str, Any]) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"another command is writing {shown(self.part)}") from None
        except OSError as error:
            raise Failed(f"{shown(self.part)} cannot be locked: {error.strerror}") from error
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode) or not found.st_nlink:
            raise Failed(f"{shown(self.part)} is no regular file, or another command has just had it")
        if found.st_size and self._kept.read() != download:
            if not self._force:
                raise Failed(
                    f"{shown(self.part)} is there, and not known to be of this download: --force overwrites it"
                )
            os.ftruncate(self._descriptor, 0)
        self._kept.write(download)

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def _put_in_place(self) -> None:
        os.fsync(self._descriptor)
        self._refuse_to_overwrite()
        if self._force:
            self.part.replace(self.path)
        else:
            self._move()
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _move(self) -> None:
        """Rename it, unless there is something of that name by now."""
        try:
            os.link(self.part, self.path, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # Not every file system has links.
            self._refuse_to_overwrite()
            self.part.rename(self.path)
        else:
            self.part.unlink()


class Stdout:
    """A pipe, such as stdout."""

    def __init__(self, descriptor: int) -> None:
        self.size = 0
        self._descriptor = descriptor
        self._sha256 = sha256()

    async def write(self, data: bytes) -> None:
        """As Target has it."""
        try:
            await in_the_background(lambda: self._write(data))
        except OSError as error:
            raise Failed(f"stdout cannot be written: {error.strerror}") from error
        self._sha256.update(data)
        self.size += len(data)

    def digest(self) -> bytes:
        """As Target has it."""
        return self._sha256.digest()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            select.select((), [self._descriptor], ())  # whoever opened it may have made it one that does not block
            view = view[os.write(self._descriptor, view) :]
