"""Giving out the bytes of files, verified."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID

from services.file.crc32c import combine
from services.file.domain.failures import told_to_the_client
from services.file.domain.readers import Readers
from services.file.domain.slots import Slots
from services.file.errors import EtagMismatch, FileNotFound, RangeInvalid
from services.file.models import Part, Piece, StoredFile
from services.file.repository.files import FileRows
from services.file.repository.parts import PartRows
from services.file.store import PartLost, PartStore
from services.kit.coalesce import Coalesced
from services.kit.database import Database

PARTS_AT_A_TIME = 100

T = TypeVar("T")
Found = tuple[StoredFile, Part | None]


class Downloads:
    """Opens downloads, as many at a time as the process has memory for."""

    def __init__(self, db: Database, store: PartStore, readers: Readers, *, piece_bytes: int, slots: Slots) -> None:
        self._db = db
        self._store = store
        self._readers = readers
        self._piece_bytes = piece_bytes
        self._slots = slots
        self._lookups = Coalesced(self._find)

    @asynccontextmanager
    async def download_file(
        self, user_id: UUID, file_id: UUID, offset: int, limit: int, if_etag: str
    ) -> AsyncIterator["Download"]:
        """The bytes of a file that the user may read, from `offset` on, at most `limit` of them, or all if that is 0.

        A negative offset counts from the end: -5 gives the last 5 bytes, or the whole file if it is smaller. With an
        `if_etag` it has to be the etag of the file.

        Raises FileNotFound, EtagMismatch, RangeInvalid, Overloaded, DependencyUnavailable.
        """
        self._slots.take(user_id)
        try:
            file, first_part = await self._readable(user_id, file_id)
            if if_etag and if_etag != file.etag:
                raise EtagMismatch
            if offset > file.size_bytes:
                raise RangeInvalid(file.size_bytes)
            start = offset if offset >= 0 else max(0, file.size_bytes + offset)
            end = min(file.size_bytes, start + limit) if limit else file.size_bytes
            yield Download(self._db, self._store, file, first_part, start, end, self._piece_bytes)
        finally:
            self._slots.give_back(user_id)

    async def _readable(self, user_id: UUID, file_id: UUID) -> Found:
        """A file that the user may read, and its first part. Raises FileNotFound, DependencyUnavailable."""
        found = await self._lookups.get(file_id)
        if found is None or not await self._readers.is_for(user_id, found[0]):
            raise FileNotFound
        return found

    async def _find(self, file_ids: Sequence[UUID]) -> Mapping[UUID, Found]:
        async with self._db.read() as tx:
            return await FileRows(tx).find_with_first_part(file_ids)


class Download:
    """A range of a file on its way out. At most two parts are in memory: one goes out while the next is read."""

    def __init__(
        self,
        db: Database,
        store: PartStore,
        file: StoredFile,
        first_part: Part | None,
        start: int,
        end: int,
        piece_bytes: int,
    ) -> None:
        self.file = file
        self.sent_crc32c = 0
        """Of the bytes of all pieces that were given out."""
        self._db = db
        self._store = store
        self._start = start
        self._end = end
        self._piece_bytes = piece_bytes
        self._listed = deque([first_part] if first_part and first_part.end > start else [])

    @property
    def size_bytes(self) -> int:
        """How many bytes the range has."""
        return self._end - self._start

    async def pieces(self, pack: Callable[[Piece], T]) -> AsyncGenerator[T, None]:
        """The bytes in order, none of them unverified, each piece as `pack` made it, which runs in a thread.

        Raises StoredDataLost, StoreUnavailable, and FileNotFound if the file is purged meanwhile.
        """
        position = self._start
        ahead: asyncio.Task[tuple[Part, list[T], int]] | None = None
        try:
            while position < self._end:
                part, packed, crc32c = await (ahead or self._read(position, pack))
                begun, position = position, min(part.end, self._end)
                # What is left in one part has nothing behind it to be read meanwhile, nor a task's cost.
                ahead = asyncio.create_task(self._read(position, pack)) if position < self._end else None
                self.sent_crc32c = combine(self.sent_crc32c, crc32c, position - begun)
                packed.reverse()
                while packed:
                    yield packed.pop()  # It is not kept here while it is sent, nor after.
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _read(self, position: int, pack: Callable[[Piece], T]) -> tuple[Part, list[T], int]:
        """The part that holds the byte at a position, what it has of the range from there on, and its crc32c."""
        with told_to_the_client(self.file.upload_id):
            try:
                part = await self._part_at(position)
                return part, *await self._store.read(part, position, min(part.end, self._end), self._piece_bytes, pack)
            except PartLost as lost:
                if await self._is_purged():
                    raise FileNotFound from lost
                raise

    async def _part_at(self, position: int) -> Part:
        if not self._listed:
            async with self._db.read() as tx:
                self._listed.extend(await PartRows(tx).list_from(self.file.upload_id, position, PARTS_AT_A_TIME))
        part = self._listed.popleft() if self._listed else None
        if part is None or not part.offset_bytes <= position < part.end:
            raise PartLost(f"no part is listed for byte {position}")
        return part

    async def _is_purged(self) -> bool:
        """Whether the file is gone for good: its parts go after its row."""
        async with self._db.read() as tx:
            return not await FileRows(tx).is_known(self.file.id)
