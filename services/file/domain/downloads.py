"""Giving out the bytes of files, verified."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import google_crc32c

from services.file.domain.failures import told_to_the_client
from services.file.domain.readers import Readers
from services.file.domain.slots import Slots
from services.file.errors import FileNotFound, RangeInvalid
from services.file.models import Part, Piece, StoredFile
from services.file.repository.files import FileRows
from services.file.repository.parts import PartRows
from services.file.store import PartLost, PartStore
from services.kit.database import Database

PARTS_AT_A_TIME = 100


class Downloads:
    """Opens downloads, as many at a time as the process has memory for."""

    def __init__(self, db: Database, store: PartStore, readers: Readers, *, piece_bytes: int, slots: Slots) -> None:
        self._db = db
        self._store = store
        self._readers = readers
        self._piece_bytes = piece_bytes
        self._slots = slots

    @asynccontextmanager
    async def download_file(self, user_id: UUID, file_id: UUID, offset: int, limit: int) -> AsyncIterator["Download"]:
        """The bytes of a file that the user may read, from `offset` on, at most `limit` of them, or all if that is 0.

        Raises FileNotFound, RangeInvalid, Overloaded, DependencyUnavailable.
        """
        self._slots.take(user_id)
        try:
            async with self._db.read() as tx:
                file = await FileRows(tx).get(file_id)
            if file is None or not await self._readers.is_for(user_id, file):
                raise FileNotFound
            if offset > file.size_bytes:
                raise RangeInvalid(file.size_bytes)
            end = min(file.size_bytes, offset + limit) if limit else file.size_bytes
            yield Download(self._db, self._store, file, offset, end, self._piece_bytes)
        finally:
            self._slots.give_back(user_id)


@dataclass(frozen=True)
class Download:
    """A range of a file on its way out. At most two parts are in memory: one goes out while the next is read."""

    db: Database
    store: PartStore
    file: StoredFile
    offset: int
    end: int
    piece_bytes: int

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The bytes in order, none of them unverified. Raises StoredDataLost and StoreUnavailable."""
        async with aclosing(self._parts()) as parts:
            ahead = asyncio.create_task(_next_of(parts))
            try:
                while (current := await ahead) is not None:
                    ahead = asyncio.create_task(_next_of(parts))
                    for piece in self._cut(*current):
                        yield piece
            finally:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _parts(self) -> AsyncGenerator[tuple[Part, bytes], None]:
        """The parts that hold the range, whole, with their verified bytes."""
        position = self.offset
        while position < self.end:
            async with self.db.read() as tx:
                parts = await PartRows(tx).list_from(self.file.upload_id, position, PARTS_AT_A_TIME)
            for part in parts:
                if position < self.end:
                    yield part, await self._read(part, position)
                    position = part.offset_bytes + part.size_bytes
            if not parts:
                with told_to_the_client(self.file.upload_id):
                    raise PartLost(f"no part is listed for byte {position}")

    async def _read(self, part: Part, position: int) -> bytes:
        with told_to_the_client(self.file.upload_id):
            if not part.offset_bytes <= position < part.offset_bytes + part.size_bytes:
                raise PartLost(f"no part is listed for byte {position}")
            return await self.store.get(part)

    def _cut(self, part: Part, data: bytes) -> Iterator[Piece]:
        """What of a part is in the range, by pieces."""
        start = max(self.offset - part.offset_bytes, 0)
        end = min(self.end - part.offset_bytes, part.size_bytes)
        for at in range(start, end, self.piece_bytes):
            piece = data[at : min(at + self.piece_bytes, end)]
            yield Piece(part.offset_bytes + at, piece, google_crc32c.value(piece))


async def _next_of(parts: AsyncIterator[tuple[Part, bytes]]) -> tuple[Part, bytes] | None:
    return await anext(parts, None)
