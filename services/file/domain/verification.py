"""Comparing what the database says is kept with what the store has."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from services.file.errors import StoreUnavailable
from services.file.models import Part
from services.file.repository.parts import PartRows
from services.file.repository.verification import Kept, VerificationRows
from services.file.store import PartLost, PartMissing, PartStore, StoredObject, StoreFailed
from services.kit.database import Database

ROWS_AT_A_TIME = 100
KEYS_AT_A_TIME = 10_000
READS_AT_A_TIME = 4
SAFE_AGE = timedelta(days=1)
"""A part is recorded before it is stored, so that none is an orphan for a moment; this is for clocks that differ."""
_BEFORE_ALL_IDS = UUID(int=0)


class Damage(StrEnum):
    """What is wrong with bytes that are to be there."""

    MISSING = "missing"
    """The store has no such part."""
    CORRUPT = "corrupt"
    """The store has other bytes in its place."""
    UNLISTED = "unlisted"
    """No part is listed that would have these bytes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Bytes that cannot be had."""

    damage: Damage
    upload_id: UUID
    file_id: UUID | None
    """None for an upload that is no file yet."""
    offset_bytes: int
    key: str
    """The part's name in the store; empty if none is listed."""


class Verification:
    """Looks, and changes nothing but by `remove`. What comes, goes and is removed meanwhile is no finding."""

    def __init__(self, db: Database, store: PartStore, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._store = store
        self._clock = clock

    async def count_bytes(self) -> int:
        """How many bytes there are to be looked at."""
        async with self._db.read() as tx:
            return await VerificationRows(tx).count_bytes()

    async def find_damage(self, on_read: Callable[[int], object]) -> AsyncGenerator[Finding, None]:
        """Read every part that is to be there and compare it with its crc32c; `on_read` is told the size of each.

        Raises StoreUnavailable.
        """
        reading: deque[asyncio.Task[Finding | None]] = deque()
        try:
            async with aclosing(self._parts()) as parts:
                async for kept, part in parts:
                    while len(reading) >= READS_AT_A_TIME:
                        if found := await reading.popleft():
                            yield found
                    reading.append(asyncio.create_task(self._look_at(kept, part, on_read)))
            while reading:
                if found := await reading.popleft():
                    yield found
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def find_orphans(self) -> AsyncGenerator[Sequence[StoredObject], None]:
        """The parts in the store that nobody has recorded, by some at a time; none that is younger than SAFE_AGE.

        One whose file is purged in this very moment may be among them. Raises StoreUnavailable.
        """
        before = self._clock() - SAFE_AGE
        candidates: list[StoredObject] = []
        with _told():
            async with aclosing(self._store.list_pages()) as pages:
                async for page in pages:
                    candidates += [found for found in page if found.is_part and found.last_modified < before]
                    if len(candidates) >= KEYS_AT_A_TIME:
                        if orphans := await self._unknown(candidates):
                            yield orphans
                        candidates = []
            if orphans := await self._unknown(candidates):
                yield orphans

    async def remove(self, orphans: Sequence[StoredObject]) -> None:
        """Remove what `find_orphans` gave. Raises StoreUnavailable."""
        with _told():
            await self._store.delete([orphan.key for orphan in orphans])

    async def _unknown(self, objects: Sequence[StoredObject]) -> list[StoredObject]:
        if not objects:
            return []
        async with self._db.read() as tx:
            known = await VerificationRows(tx).known_among([found.key for found in objects])
        return [found for found in objects if found.key not in known]

    async def _parts(self) -> AsyncGenerator[tuple[Kept, Part | int], None]:
        """All parts that are to be there; in place of one that is not listed, the offset where it is missing."""
        last = _BEFORE_ALL_IDS
        while True:
            async with self._db.read() as tx:
                page = await VerificationRows(tx).list_kept(last, ROWS_AT_A_TIME)
            if not page:
                return
            for kept in page:
                async with aclosing(self._parts_of(kept)) as parts:
                    async for part in parts:
                        yield kept, part
            last = page[-1].upload_id

    async def _parts_of(self, kept: Kept) -> AsyncGenerator[Part | int, None]:
        position = 0
        while position < kept.size_bytes:
            async with self._db.read() as tx:
                parts = await PartRows(tx).list_from(kept.upload_id, position, ROWS_AT_A_TIME)
            before = position
            for part in parts:
                if part.end <= position or part.offset_bytes >= kept.size_bytes:
                    continue
                if part.offset_bytes > position:
                    yield position
                yield part
                position = part.end
            if position == before:
                yield position
                return

    async def _look_at(self, kept: Kept, part: Part | int, on_read: Callable[[int], object]) -> Finding | None:
        if isinstance(part, int):
            async with self._db.read() as tx:
                is_kept = await VerificationRows(tx).is_kept(kept.upload_id)
            return Finding(Damage.UNLISTED, kept.upload_id, kept.file_id, part, "") if is_kept else None
        try:
            with _told():
                await self._store.get(part)
        except PartLost as lost:
            damage = Damage.MISSING if isinstance(lost, PartMissing) else Damage.CORRUPT
        else:
            return None
        finally:
            on_read(part.size_bytes)
        async with self._db.read() as tx:
            is_kept = bool(await PartRows(tx).live_among(kept.upload_id, [part.key]))
        return Finding(damage, kept.upload_id, kept.file_id, part.offset_bytes, part.key) if is_kept else None


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except StoreFailed as error:
        raise StoreUnavailable from error
