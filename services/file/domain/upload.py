"""One upload: `start`, any number of `chunk`, `finish`, and the file that it becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import google_crc32c
import structlog

from services.file.domain.parts import PartWriter
from services.file.errors import (
    ChecksumMismatch,
    ChunkCorrupt,
    FileTooLarge,
    OffsetMismatch,
    SizeMismatch,
    UploadIncomplete,
    UploadOutOfTurn,
)
from services.file.models import Chunk, Finish, Start, Step, StoredFile
from services.kit.ids import uuid7

log = structlog.get_logger()


@dataclass(frozen=True)
class UploadLimits:
    """What uploads may use."""

    max_file_bytes: int
    part_bytes: int
    max_on_a_stream: int
    max_in_the_process: int
    max_for_a_user: int
    """Of those in the process."""
    idle_timeout: timedelta
    """How long a stream may be silent."""
    heartbeat: timedelta
    """How often an upload that goes on says so in the database."""


class Upload:
    """The state of one upload. It becomes a file in `commit` or not at all; `close` removes what is left of it."""

    def __init__(self, user_id: UUID, parts: PartWriter, limits: UploadLimits, clock: Callable[[], datetime]) -> None:
        self.user_id = user_id
        self._parts = parts
        self._limits = limits
        self._clock = clock
        self._start: Start | None = None
        self._received = 0
        self._sha256: bytes | None = None
        self._committed = False

    @property
    def finished(self) -> bool:
        """Whether `finish` came and everything that was declared holds."""
        return self._sha256 is not None

    async def take(self, step: Step) -> None:
        """Take the next step. After a failure the upload is good for `close` only.

        Raises any failure of `parley.file.v1` that concerns uploads; UploadIncomplete only `commit` does.
        """
        match step:
            case Start():
                self._begin(step)
            case Chunk():
                await self._append(step)
            case Finish():
                await self._finish(step)

    async def commit(self) -> StoredFile:
        """Make the finished upload a file, visible from now on. Raises UploadIncomplete without `finish`."""
        if self._start is None or self._sha256 is None:
            raise UploadIncomplete
        file = StoredFile(
            id=uuid7(),
            user_id=self.user_id,
            upload_id=self._parts.upload_id,
            filename=self._start.filename,
            content_type=self._start.content_type,
            size_bytes=self._received,
            sha256=self._sha256,
            create_time=self._clock(),
        )
        await self._parts.publish(file)
        self._committed = True
        log.info("file stored", file_id=str(file.id), upload_id=str(file.upload_id), bytes=file.size_bytes)
        return file

    async def close(self) -> None:
        """Leave nothing behind of an upload that did not become a file."""
        if not self._committed:
            await self._parts.discard()

    def _begin(self, start: Start) -> None:
        if self._start is not None:
            raise UploadOutOfTurn
        self._check_size(start.size_bytes or 0)
        self._start = start

    async def _append(self, chunk: Chunk) -> None:
        if self._start is None or self.finished:
            raise UploadOutOfTurn
        if chunk.offset != self._received:
            raise OffsetMismatch(self._received)
        if chunk.crc32c is not None and google_crc32c.value(chunk.data) != chunk.crc32c:
            raise ChunkCorrupt
        received = self._received + len(chunk.data)
        self._check_size(received)
        if self._start.size_bytes is not None and received > self._start.size_bytes:
            raise SizeMismatch
        await self._parts.add(chunk.data)
        self._received = received

    async def _finish(self, finish: Finish) -> None:
        if self._start is None or self.finished:
            raise UploadOutOfTurn
        if any(declared not in (None, self._received) for declared in (self._start.size_bytes, finish.size_bytes)):
            raise SizeMismatch
        sha256 = await self._parts.close()
        if finish.sha256 is not None and finish.sha256 != sha256:
            raise ChecksumMismatch
        self._sha256 = sha256

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_file_bytes:
            raise FileTooLarge(self._limits.max_file_bytes)
