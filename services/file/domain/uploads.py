"""The uploads of this process, one to a stream or several."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from services.file.domain.batch import UploadBatch
from services.file.domain.bodies import Body, Replayed, Written
from services.file.domain.claims import Claims
from services.file.domain.digest import Digests
from services.file.domain.hashing import Hashing
from services.file.domain.ledger import Claim, Ledger
from services.file.domain.limits import UploadLimits
from services.file.domain.memory import MemoryBudget
from services.file.domain.overlap import Overlap
from services.file.domain.parts import PartWriter
from services.file.domain.singles import Singles
from services.file.domain.slots import Slots
from services.file.domain.upload import Upload
from services.file.models import Resume, Start, StoredFile
from services.file.store import PartStore
from services.kit.database import Database
from services.kit.faults import describe_fault

log = structlog.get_logger()

REMEMBERED_DIGESTS = 1024
READ_BACK_AT_A_TIME = 2

OnMarked = Callable[[int], None]


class Uploads:
    """Opens uploads, as many at a time as the process has memory for."""

    def __init__(
        self, db: Database, store: PartStore, claims: Claims, *, clock: Callable[[], datetime], limits: UploadLimits
    ) -> None:
        self.limits = limits
        self._db = db
        self._store = store
        self._claims = claims
        self._clock = clock
        self._slots = Slots(in_the_process=limits.max_in_the_process, for_a_user=limits.max_for_a_user)
        self._memory = MemoryBudget(limits.memory_bytes)
        self._singles = Singles(db, store, clock=clock, quota=limits.quota)
        self._digests = Digests(REMEMBERED_DIGESTS)
        self._reading_back = asyncio.Semaphore(READ_BACK_AT_A_TIME)
        self._written: dict[UUID, Written] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def upload_file(self, user_id: UUID) -> AsyncIterator[Upload]:
        """One upload; it is closed at the end of the block. Raises Overloaded."""
        upload = self.begin(user_id)
        try:
            yield upload
        finally:
            await self.end(upload)

    @asynccontextmanager
    async def upload_files(self, user_id: UUID) -> AsyncIterator[UploadBatch]:
        """Several uploads, by key; they are closed at the end of the block."""
        batch = UploadBatch(
            self, user_id, most=self.limits.max_on_a_stream, patience=self.limits.idle_timeout.total_seconds()
        )
        try:
            yield batch
        finally:
            await self._bring_to_an_end(batch.close())

    def begin(self, user_id: UUID, on_marked: OnMarked = lambda _: None) -> Upload:
        """A new upload, which must be ended; `on_marked` hears how far it is. Raises Overloaded."""
        self._slots.take(user_id)

        async def opened(step: Start | Resume) -> Body:
            claimed = await self._claims.claim(user_id, step)
            if isinstance(claimed, StoredFile):
                return Replayed(claimed, Overlap(self._db, claimed.upload_id))
            return self._write(*claimed, on_marked)

        return Upload(user_id, opened)

    async def end(self, upload: Upload) -> None:
        """The upload is over, one way or the other."""
        await self._bring_to_an_end(self._end(upload))

    async def settle(self) -> None:
        """Wait for uploads that are being closed though their callers are gone, and let go of what is reserved."""
        while self._ending:
            await asyncio.wait(self._ending)
        await self._singles.close()

    async def _bring_to_an_end(self, work: Coroutine[Any, Any, None]) -> None:
        """The caller may be cancelled: a client that goes away while its uploads are closed must not stop that."""
        ending = asyncio.create_task(work, name="end-upload")
        self._ending.add(ending)
        ending.add_done_callback(self._note_ended)
        await asyncio.shield(ending)

    def _note_ended(self, ending: asyncio.Task[None]) -> None:
        self._ending.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:  # Its caller may be gone.
            log.error("upload was not closed: what is left of it waits for the sweep", fault=describe_fault(error))

    def _write(self, claim: Claim, declared: Start, on_marked: OnMarked) -> Written:
        upload_id = claim.upload_id
        ledger = Ledger(self._db, self._store, self._clock, claim, quota=self.limits.quota, on_marked=on_marked)
        if before := self._written.get(upload_id):
            before.fence()
        digest = self._digests.take(upload_id, claim.persisted)
        hashing = Hashing(self._db, self._store, upload_id, digest, claim.persisted, self._reading_back)
        writer = PartWriter(
            ledger, self._store, self._singles, self._memory, hashing, part_bytes=self.limits.part_bytes
        )
        overlap = Overlap(self._db, upload_id)
        written = Written(claim, declared, writer, overlap, self._digests, limits=self.limits, clock=self._clock)
        if claim.is_named:
            self._written[upload_id] = written
        return written

    async def _end(self, upload: Upload) -> None:
        try:
            await upload.close()
        finally:
            self._slots.give_back(upload.user_id)
            body = upload.body
            if isinstance(body, Written) and self._written.get(body.upload_id) is body:
                del self._written[body.upload_id]
