"""What the database knows of one upload, written by the one who has it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from services.file.domain.removal import remove_discarded
from services.file.errors import QuotaExceeded, UploadNotFound, UploadTakenOver
from services.file.models import Part, StoredFile, UploadState, Usage
from services.file.repository.parts import PartRows
from services.file.repository.uploads import UploadRows
from services.file.store import PartStore, StoreFailed
from services.kit.database import Database
from services.kit.errors import CallTooLong, DatabaseUnavailable, DomainError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Claim:
    """Who writes an upload: the newest epoch alone can record anything."""

    upload_id: UUID
    user_id: UUID
    epoch: int
    persisted: int
    """So many bytes were durable when it was claimed."""
    is_named: bool
    """Whether it can be resumed."""
    kept: timedelta
    """How long it is kept without progress."""


class Ledger:
    """Records the progress of one upload. All of it raises DatabaseUnavailable, and what it says.

    `record`, `mark` and `publish` raise UploadTakenOver, UploadNotFound or CallTooLong when somebody else has the
    upload now, or nobody: nothing is changed then.
    """

    def __init__(
        self,
        db: Database,
        store: PartStore,
        clock: Callable[[], datetime],
        claim: Claim,
        *,
        quota: Usage,
        on_marked: Callable[[int], None],
    ) -> None:
        """`on_marked` is told how many bytes are noted as durable whenever that grows."""
        self.claim = claim
        self.marked = claim.persisted
        """So many bytes are noted as durable."""
        self.is_recorded = claim.is_named
        """Whether the database knows the upload."""
        self._db = db
        self._store = store
        self._clock = clock
        self._quota = quota
        self._on_marked = on_marked
        self._last_sign = clock()

    @property
    def is_quiet(self) -> bool:
        """Whether it should give a sign of life, since it would be taken for dead before long."""
        return self.is_recorded and self._clock() - self._last_sign > self.claim.kept / 4

    async def record(self, part: Part, persisted: int) -> None:
        """A part is about to be stored, and so many bytes are durable. Raises QuotaExceeded."""
        claim, now = self.claim, self._clock()
        expire_time = now + claim.kept
        async with self._db.read() as tx:
            rows = PartRows(tx)
            if self.is_recorded:
                is_held, fits = await rows.add(
                    claim.upload_id, claim.epoch, part, persisted, now, expire_time, self._quota
                )
            else:
                is_held = True
                fits = await rows.add_first(claim.user_id, claim.upload_id, part, now, expire_time, self._quota)
        if not is_held:
            raise await self._lost()
        self._noted(persisted, now)
        if not fits:
            raise QuotaExceeded(*self._quota)
        self.is_recorded = True

    async def mark(self, persisted: int) -> None:
        """So many bytes are durable, and the upload lives."""
        claim, now = self.claim, self._clock()
        async with self._db.read() as tx:
            is_held = await PartRows(tx).mark(claim.upload_id, claim.epoch, persisted, now, now + claim.kept)
        if not is_held:
            raise await self._lost()
        self._noted(persisted, now)

    async def publish(self, file: StoredFile) -> None:
        """Make the upload a file, visible from now on; all its parts are durable. Raises QuotaExceeded."""
        async with self._db.read() as tx:
            rows = PartRows(tx)
            if self.is_recorded:
                is_held = await rows.publish(file, self.claim.epoch)
            elif not await rows.publish_empty(file, self._quota):
                raise QuotaExceeded(*self._quota)
            else:
                is_held = True
        if not is_held:
            raise await self._lost()

    async def keep(self, persisted: int) -> bool:
        """The stream is over, and the upload can be resumed: what was recorded beyond so many bytes is given up.

        False if somebody else has the upload now, or nobody.
        """
        claim, now = self.claim, self._clock()
        async with self._db.transaction() as tx:
            rows = PartRows(tx)
            is_held = await rows.mark(claim.upload_id, claim.epoch, persisted, now, now + claim.kept)
            if is_held:
                await rows.give_up(claim.user_id, claim.upload_id, persisted, now)
        if is_held:
            self._noted(persisted, now)
        return is_held

    async def discard(self) -> None:
        """The stream is over, and so is the upload unless it is a file. What cannot be removed the sweep finds."""
        if not self.is_recorded:
            return
        try:
            async with self._db.transaction() as tx:
                discarded = await UploadRows(tx).discard(self.claim.user_id, self.claim.upload_id, self._clock())
            if discarded:
                await remove_discarded(self._db, self._store, self.claim.upload_id, self._clock())
        except (StoreFailed, DatabaseUnavailable) as error:
            log.warning("parts left to the sweep", upload_id=str(self.claim.upload_id), cause=type(error).__name__)

    async def remove_unneeded(self, keys: list[str]) -> None:
        """Remove those of these parts that belong to no upload: they came to the store after they were given up."""
        if not keys:
            return
        try:
            async with self._db.read() as tx:
                live = await PartRows(tx).live_among(self.claim.upload_id, keys)
            if unneeded := [key for key in keys if key not in live]:
                await self._store.delete(unneeded)
        except (StoreFailed, DatabaseUnavailable) as error:
            log.warning("parts may be left", upload_id=str(self.claim.upload_id), cause=type(error).__name__)

    def _noted(self, persisted: int, now: datetime) -> None:
        self._last_sign = now
        if persisted > self.marked:
            self.marked = persisted
            self._on_marked(persisted)

    async def _lost(self) -> DomainError:
        """Why this is not the writer any more."""
        async with self._db.read() as tx:
            upload = await UploadRows(tx).find(self.claim.upload_id)
        if upload is not None and upload.state in (UploadState.OPEN, UploadState.STORED):
            return UploadTakenOver()
        if self.claim.is_named:
            return UploadNotFound()
        return CallTooLong("The upload made no progress for too long, and was given up.")
