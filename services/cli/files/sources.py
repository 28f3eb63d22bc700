"""Where the bytes of an upload come from: a file, which can be read again, or a pipe, which cannot."""

import asyncio
import os
import select
import stat
import threading
from collections import deque
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from parley.file.v1 import file_service_pb2 as pb2
from services.cli.client.ending import Failed
from services.cli.files.blocking import in_the_background

CHUNK_BYTES = 1024 * 1024
WINDOW_BYTES = 32 * 1024 * 1024
WINDOW_SECONDS = 5.0
MORE_SECONDS = 0.02


class SourceChanged(Failed):
    """What is uploaded is not what it was when that began."""


class Source(Protocol):
    """Bytes in order, of which those that the server has not kept yet can be read again."""

    size: int | None
    """How many there are, if that is known."""

    async def ready(self, offset: int) -> None:
        """Return when there is something to read from there on, which may be the end."""

    async def pass_over(self, offset: int) -> None:
        """The server has all up to there: it will not be read."""

    async def read(self, offset: int) -> bytes:
        """The bytes from there on, at most CHUNK_BYTES; none at the end. Raises Failed."""

    def persisted(self, size: int) -> None:
        """So many bytes from the beginning will not be read again."""

    async def finish(self) -> pb2.UploadFinish:
        """What all bytes were, once all were read. Raises SourceChanged if they may be of two versions."""

    def close(self) -> None:
        """Nothing is read any more."""


class FileSource:
    """A regular file."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises Failed if it is none, or cannot be read."""
        try:
            kind = path.stat().st_mode
            if stat.S_ISDIR(kind):
                raise Failed("is a folder: give the files in it")
            if not stat.S_ISREG(kind):
                raise Failed("is no regular file: `parley upload - --name NAME` reads a pipe")
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Failed(f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise Failed(f"cannot be read: {error}") from error
        found = os.fstat(self._descriptor)
        self.size: int | None = found.st_size
        self.version = [found.st_size, found.st_mtime_ns]
        """What tells it from what it may be later."""
        self.length = found.st_size
        self._sha256 = sha256()
        self._hashed = 0
        # A read that nobody waits for any more may still be under way when the next one comes.
        self._turn = threading.Lock()

    async def ready(self, offset: int) -> None:
        """As Source has it."""

    async def pass_over(self, offset: int) -> None:
        """As Source has it; they are read for their hash."""
        while self._hashed < min(offset, self.length) and await self.read(self._hashed):
            pass

    async def read(self, offset: int) -> bytes:
        """As Source has it."""
        if offset > self._hashed:
            await self.pass_over(offset)
        return await asyncio.to_thread(self._read, offset)

    def persisted(self, size: int) -> None:
        """As Source has it."""

    async def finish(self) -> pb2.UploadFinish:
        """As Source has it."""
        now = os.fstat(self._descriptor)
        if [now.st_size, now.st_mtime_ns] != self.version or self._hashed != self.length:
            raise SourceChanged("has changed while it was sent: nothing is stored")
        return pb2.UploadFinish(size_bytes=self.length, sha256=self._sha256.digest())

    def close(self) -> None:
        """As Source has it."""
        with self._turn:
            os.close(self._descriptor)

    def _read(self, offset: int) -> bytes:
        with self._turn:
            try:
                data = os.pread(self._descriptor, max(0, min(CHUNK_BYTES, self.length - offset)), offset)
            except OSError as error:
                raise Failed(f"cannot be read: {error.strerror}") from error
            if offset <= self._hashed < offset + len(data):
                self._sha256.update(memoryview(data)[self._hashed - offset :])
                self._hashed = offset + len(data)
            return data


class PipeSource:
    """A pipe, such as stdin. What is read of it is held until the server has kept it, up to WINDOW_BYTES."""

    def __init__(self, descriptor: int) -> None:
        self.size: int | None = None
        self._descriptor = descriptor
        self._held: deque[bytes] = deque()
        self._start = 0
        self._end = 0
        self._has_ended = False
        self._saw_end = False
        self._reading: asyncio.Future[bytes] | None = None
        self._room = asyncio.Event()
        self._waits_for_room = True
        self._sha256 = sha256()

    async def ready(self, offset: int) -> None:
        """As Source has it."""
        while offset >= self._end and not self._has_ended:
            await self._take()

    async def pass_over(self, offset: int) -> None:
        """As Source has it: only what was read before can be passed over."""

    async def read(self, offset: int) -> bytes:
        """As Source has it."""
        if offset < self._start:
            raise Failed("the server lost more of it than is held here, and stdin cannot be read again")
        await self.ready(offset)
        position = self._start
        for held in self._held:
            if offset < position + len(held):
                return held[offset - position :]
            position += len(held)
        return b""

    def persisted(self, size: int) -> None:
        """As Source has it."""
        while self._held and self._start + len(self._held[0]) <= size:
            self._let_go()
        self._room.set()

    async def finish(self) -> pb2.UploadFinish:
        """As Source has it."""
        return pb2.UploadFinish(size_bytes=self._end, sha256=self._sha256.digest())

    def close(self) -> None:
        """As Source has it; stdin stays open, since a thread may still be reading it."""

    async def _take(self) -> None:
        """Hold the next bytes, too. May be cancelled: what was being read is held next time."""
        await self._make_room()
        if self._reading is None:
            self._reading = in_the_background(self._next)
        data = await asyncio.shield(self._reading)
        self._reading = None
        self._has_ended = self._saw_end
        if not data:
            return
        self._held.append(data)
        self._end += len(data)
        self._sha256.update(data)

    async def _make_room(self) -> None:
        """Wait for the server to keep more; a server that keeps only what is larger than the window gets on, too."""
        while self._end - self._start + CHUNK_BYTES > WINDOW_BYTES:
            self._room.clear()
            try:
                if self._waits_for_room:
                    async with asyncio.timeout(WINDOW_SECONDS):
                        await self._room.wait()
                    continue
            except TimeoutError:
                self._waits_for_room = False
            self._let_go()

    def _let_go(self) -> None:
        self._start += len(self._held.popleft())

    def _next(self) -> bytes:
        """As much as there is at once, at least a byte; none at the end."""
        try:
            taken = bytearray()
            while len(taken) < CHUNK_BYTES:
                if not select.select([self._descriptor], (), (), MORE_SECONDS if taken else None)[0]:
                    break
                more = os.read(self._descriptor, CHUNK_BYTES - len(taken))
                if not more:
                    self._saw_end = True
                    break
                taken += more
        except OSError as error:
            raise Failed(f"stdin cannot be read: {error.strerror}") from error
        return bytes(taken)
