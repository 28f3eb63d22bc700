"""Where the bytes of an upload go: to the store, or nowhere since they are a file already."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

import structlog

from services.file.domain.digest import Digests
from services.file.domain.ledger import Claim
from services.file.domain.limits import UploadLimits
from services.file.domain.overlap import Overlap
from services.file.domain.parts import PartWriter
from services.file.errors import ChecksumMismatch, ContentMismatch, OffsetMismatch, SizeMismatch, UploadTakenOver
from services.file.models import Chunk, Finish, Start, StoredFile
from services.kit.ids import uuid7

log = structlog.get_logger()


class Body(Protocol):
    """What an upload does with its steps after the first one."""

    @property
    def upload_id(self) -> UUID:
        """The upload."""

    @property
    def persisted(self) -> int:
        """How many of its bytes are noted as durable."""

    @property
    def is_named(self) -> bool:
        """Whether it can be resumed."""

    async def append(self, chunk: Chunk) -> None:
        """Take bytes, the first time or again."""

    async def finish(self, finish: Finish) -> None:
        """All bytes have come: see that what was declared of them holds."""

    async def commit(self) -> StoredFile:
        """Become a file, after `finish`."""

    async def close(self) -> None:
        """The stream is over: keep what can be resumed, and leave nothing of what cannot. Harmless after `commit`."""


class Written:
    """An open upload: its bytes are stored as parts."""

    def __init__(
        self,
        claim: Claim,
        declared: Start,
        writer: PartWriter,
        overlap: Overlap,
        digests: Digests,
        *,
        limits: UploadLimits,
        clock: Callable[[], datetime],
    ) -> None:
        self._claim = claim
        self._declared = declared
        self._writer = writer
        self._overlap = overlap
        self._digests = digests
        self._limits = limits
        self._clock = clock
        self._file: StoredFile | None = None
        self._is_over = False
        self._is_fenced = False

    @property
    def upload_id(self) -> UUID:
        """As Body."""
        return self._claim.upload_id

    @property
    def persisted(self) -> int:
        """As Body."""
        return self._writer.noted

    @property
    def is_named(self) -> bool:
        """As Body."""
        return self._claim.is_named

    def fence(self) -> None:
        """Another stream of this process has claimed the upload."""
        self._is_fenced = True

    async def append(self, chunk: Chunk) -> None:
        """As Body."""
        self._check_claim()
        received = self._writer.received
        if chunk.offset > received:
            raise OffsetMismatch(received)
        end = chunk.offset + len(chunk.data)
        self._limits.check_size(end)
        if self._declared.size_bytes is not None and end > self._declared.size_bytes:
            raise SizeMismatch
        data = chunk.data
        if chunk.offset < received:
            again, data = data[: received - chunk.offset], data[received - chunk.offset :]
            await self._compare(chunk.offset, again)
        if data:
            await self._writer.add(data)

    async def finish(self, finish: Finish) -> None:
        """As Body."""
        self._check_claim()
        _check_sizes(self._writer.received, self._declared.size_bytes, finish.size_bytes)
        digest = await self._writer.close()
        _check_sums(digest.sha256, self._declared.sha256, finish.sha256)
        _check_sums(digest.crc32c, self._declared.crc32c, finish.crc32c)
        now = self._clock()
        self._file = StoredFile(
            id=uuid7(),
            user_id=self._claim.user_id,
            upload_id=self.upload_id,
            filename=self._declared.filename,
            content_type=self._declared.content_type,
            size_bytes=digest.position,
            sha256=digest.sha256,
            crc32c=digest.crc32c,
            sniffed_content_type=digest.content_type,
            labels=self._declared.labels,
            revision=1,
            create_time=now,
            update_time=now,
        )

    async def commit(self) -> StoredFile:
        """As Body."""
        self._check_claim()
        file = self._file
        assert file is not None
        await self._writer.publish(file)
        self._is_over = True
        log.info("file stored", file_id=str(file.id), upload_id=str(file.upload_id), bytes=file.size_bytes)
        return file

    async def close(self) -> None:
        """As Body."""
        if self._is_over:
            return
        if self._claim.is_named:
            await self._writer.keep()
        else:
            await self._writer.discard()
        self._is_over = True  # Not before: who was cancelled in the middle does it again.
        if self._claim.is_named and not self._is_fenced and (digest := self._writer.digest) is not None:
            self._digests.keep(self.upload_id, digest)

    async def _compare(self, offset: int, data: bytes) -> None:
        """Raises ContentMismatch."""
        filling = self._writer.filling
        stored, held = data[: max(filling.offset - offset, 0)], data[max(filling.offset - offset, 0) :]
        if held and not filling.holds(offset + len(stored), held):
            raise ContentMismatch
        if stored:
            await self._overlap.compare(offset, stored, self._writer.in_hand)

    def _check_claim(self) -> None:
        if self._is_fenced:
            raise UploadTakenOver


class Replayed:
    """An upload that is a file already: its steps are checked against the file, and change nothing."""

    is_named = True

    def __init__(self, file: StoredFile, overlap: Overlap) -> None:
        self._file = file
        self._overlap = overlap

    @property
    def upload_id(self) -> UUID:
        """As Body."""
        return self._file.upload_id

    @property
    def persisted(self) -> int:
        """As Body."""
        return self._file.size_bytes

    async def append(self, chunk: Chunk) -> None:
        """As Body."""
        if chunk.offset > self._file.size_bytes:
            raise OffsetMismatch(self._file.size_bytes)
        if chunk.offset + len(chunk.data) > self._file.size_bytes:
            raise SizeMismatch
        await self._overlap.compare(chunk.offset, chunk.data, ())

    async def finish(self, finish: Finish) -> None:
        """As Body."""
        _check_sizes(self._file.size_bytes, finish.size_bytes)
        _check_sums(self._file.sha256, finish.sha256)
        _check_sums(self._file.crc32c, finish.crc32c)

    async def commit(self) -> StoredFile:
        """As Body."""
        return self._file

    async def close(self) -> None:
        """As Body."""


def _check_sizes(real: int, *declared: int | None) -> None:
    """Raises SizeMismatch."""
    if any(size not in (None, real) for size in declared):
        raise SizeMismatch


def _check_sums(real: bytes | int | None, *declared: bytes | int | None) -> None:
    """Raises ChecksumMismatch."""
    if any(checksum not in (None, real) for checksum in declared):
        raise ChecksumMismatch
