"""Hashing an upload beside storing it."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from services.file.domain.digest import Digest
from services.file.domain.failures import told_to_the_client
from services.file.models import Part
from services.file.repository.parts import PartRows
from services.file.store import PartLost, PartStore
from services.kit.database import Database

PARTS_AT_A_TIME = 100


class Hashing:
    """Brings the digest of an upload forward, in the order of the bytes, in threads.

    Bytes that are hashed are those at hand. Only what another process took before is read back from the store; until it
    has come as far as the bytes at hand, these are read back, too.
    """

    def __init__(
        self,
        db: Database,
        store: PartStore,
        upload_id: UUID,
        digest: Digest,
        persisted: int,
        places: asyncio.Semaphore,
    ) -> None:
        """`places` bounds how many parts of all uploads are read back at a time."""
        self._db = db
        self._store = store
        self._upload_id = upload_id
        self._digest = digest
        self._checkpoints = {digest.position: digest.copy()}
        self._durable = persisted
        self._expected = persisted
        self._moved = asyncio.Event()
        self._last: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._places = places
        self._failure: Exception | None = None
        if digest.position < persisted:
            self._reading = asyncio.create_task(self._read_back(), name="hash-stored-parts")

    @property
    def is_behind(self) -> bool:
        """Whether it reads back what is stored."""
        return self._reading is not None and not self._reading.done()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for bytes: who has the next can hash them as he likes, with `digest`."""
        return not self.is_behind and (self._last is None or self._last.done())

    @property
    def digest(self) -> Digest:
        """As far as it is."""
        return self._digest

    def follow(self, offset: int, runs: Sequence[bytes]) -> asyncio.Task[None] | None:
        """Hash bytes that follow all before; None if they are read back later."""
        self._expected = offset + sum(map(len, runs))
        if self.is_behind:
            return None
        self._last = asyncio.create_task(self._take(offset, runs, self._last), name="hash-part")
        return self._last

    def note_durable(self, persisted: int) -> None:
        """So many bytes are in the store."""
        self._durable = persisted
        self._moved.set()
        # Only the newest of them is needed: who reads back a large upload would have one for each of its parts.
        for position in sorted(position for position in self._checkpoints if position <= persisted)[:-1]:
            del self._checkpoints[position]

    def at(self, persisted: int) -> Digest | None:
        """The digest of so many bytes, or of fewer; None if there is none any more."""
        known = [position for position in self._checkpoints if position <= persisted]
        return self._checkpoints[max(known)] if known else None

    async def complete(self) -> Digest:
        """The digest of all bytes, which are durable. Raises StoredDataLost, StoreUnavailable, DatabaseUnavailable."""
        for task in (self._reading, self._last):
            if task is not None:
                await asyncio.wait((task,))
                task.result()
        if self._failure is not None:
            raise self._failure
        return self._digest

    async def stop(self) -> None:
        """Read no more."""
        tasks = [task for task in (self._reading, self._last) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.exception()  # Looked at: the upload is over, however it ended.

    async def _take(self, offset: int, runs: Sequence[bytes], before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        if self._digest.position != offset:
            return  # The one before was not hashed: that failed, or its upload is over.
        try:
            await asyncio.to_thread(self._digest.take, runs)
        except Exception as error:
            self._failure = error
            raise
        self._checkpoints[self._digest.position] = self._digest.copy()

    async def _read_back(self) -> None:
        while self._digest.position < self._expected:
            self._moved.clear()
            if self._digest.position < self._durable:
                await self._read_durable()
            else:
                await self._moved.wait()

    async def _read_durable(self) -> None:
        async with self._db.read() as tx:
            parts = await PartRows(tx).list_from(self._upload_id, self._digest.position, PARTS_AT_A_TIME)
        for part in parts:
            if part.end > self._durable:
                break
            await self._read_part(part)
        if not parts:
            with told_to_the_client(self._upload_id):
                raise PartLost(f"no part is listed for byte {self._digest.position}")

    async def _read_part(self, part: Part) -> None:
        with told_to_the_client(self._upload_id):
            if part.offset_bytes != self._digest.position:
                raise PartLost(f"no part is listed for byte {self._digest.position}")
            async with self._places:
                await asyncio.to_thread(self._digest.take, [await self._store.get(part)])
        self._checkpoints[self._digest.position] = self._digest.copy()
        self.note_durable(self._durable)
