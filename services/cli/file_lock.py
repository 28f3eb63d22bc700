"""A lock on a folder that ends with the process that holds it, however that ends."""

import fcntl
import os
from pathlib import Path


class LockHeldError(Exception):
    """Another living process holds the lock."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"{path} is held by pid {pid}" if pid else f"{path} is held by another process")
        self.pid = pid


class FileLock:
    """An exclusive flock(2) on a file that names its holder.

    The kernel drops it with the process, so there is no stale lock. The file stays: removing it would let two
    processes lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            LockHeldError: with the pid of the holder, as far as it can be known.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode(errors="replace").strip()
            os.close(fd)
            raise LockHeldError(self._path, int(holder) if holder.isdecimal() else None) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Give the lock up; without effect when it is not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
