"""Bytes that come again."""

from collections.abc import Sequence
from uuid import UUID

import google_crc32c

from services.file.errors import ContentMismatch
from services.file.models import Part
from services.file.repository.parts import PartRows
from services.kit.database import Database

PARTS_AT_A_TIME = 100


class Overlap:
    """Compares bytes that come again with the parts that they were stored in, by crc32c, where a whole part comes.

    They come in any order; what counts is that a part's bytes come from its first to its last one after the other.
    """

    def __init__(self, db: Database, upload_id: UUID) -> None:
        self._db = db
        self._upload_id = upload_id
        self._parts: Sequence[Part] = ()
        self._position = -1
        self._crc32c: int | None = None
        """Of the part that is being compared, as far as it has come; None if its beginning has not."""

    async def compare(self, offset: int, data: bytes, in_hand: Sequence[Part]) -> None:
        """Take bytes that are stored, or on their way there in one of the parts in hand. Raises ContentMismatch."""
        if offset != self._position:
            self._position, self._crc32c = offset, None
        while data:
            part = await self._part_at(self._position, in_hand)
            if part is None:
                self._crc32c = None
                self._position += len(data)
                return
            if self._position == part.offset_bytes:
                self._crc32c = 0
            within, data = data[: part.end - self._position], data[part.end - self._position :]
            self._position += len(within)
            if self._crc32c is not None:
                self._crc32c = google_crc32c.extend(self._crc32c, within)
                if self._position == part.end and self._crc32c != part.crc32c:
                    raise ContentMismatch

    async def _part_at(self, position: int, in_hand: Sequence[Part]) -> Part | None:
        for part in (*self._parts, *in_hand):
            if part.offset_bytes <= position < part.end:
                return part
        async with self._db.read() as tx:
            self._parts = await PartRows(tx).list_from(self._upload_id, position, PARTS_AT_A_TIME)
        first = self._parts[0] if self._parts else None
        return first if first is not None and first.offset_bytes <= position < first.end else None
