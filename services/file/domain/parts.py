"""From bytes to stored parts."""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

import google_crc32c
import structlog

from services.file.domain.failures import told_to_the_client
from services.file.domain.removal import remove_discarded
from services.file.models import Part, StoredFile, UploadState
from services.file.repository import FileRows, UploadRows
from services.file.store import PartStore, StoreFailed
from services.kit.database import Database
from services.kit.errors import CallTooLong, DatabaseUnavailable
from services.kit.ids import uuid7

log = structlog.get_logger()


class PartWriter:
    """Stores the bytes of one upload as parts. While one part is stored the next one fills, so two are in memory.

    A part is recorded before it is stored, and the record dates the upload's last sign of life.
    """

    def __init__(
        self,
        db: Database,
        store: PartStore,
        clock: Callable[[], datetime],
        *,
        user_id: UUID,
        part_bytes: int,
        heartbeat: timedelta,
    ) -> None:
        self.upload_id = uuid7()
        self._db = db
        self._store = store
        self._clock = clock
        self._user_id = user_id
        self._part_bytes = part_bytes
        self._heartbeat = heartbeat
        self._sha256 = hashlib.sha256()
        self._part = bytearray()  # One run of bytes: a list of chunks would cost a multiple of it when they are tiny.
        self._crc32c = 0
        self._stored_to = 0
        self._storing: asyncio.Task[None] | None = None
        self._last_recorded: datetime | None = None
        self._last_key = ""

    async def add(self, data: bytes) -> None:
        """Take the bytes that follow. Raises what went wrong with a part before: StoreUnavailable, CallTooLong."""
        if self._storing is not None and self._storing.done():
            await self._settle()
        if self._last_recorded is not None and self._clock() - self._last_recorded > self._heartbeat:
            await self._touch()
        while data:
            room = self._part_bytes - len(self._part)
            fitting, data = (data, b"") if len(data) <= room else (data[:room], data[room:])
            self._part += fitting
            self._crc32c = google_crc32c.extend(self._crc32c, fitting)
            if len(self._part) == self._part_bytes:
                await self._flush()

    async def close(self) -> bytes:
        """Store what is left. All parts are durable on return, which is the SHA-256 of all bytes."""
        if self._part:
            await self._flush()
        await self._settle()
        return self._sha256.digest()

    async def publish(self, file: StoredFile) -> None:
        """Make the closed upload a file. Raises CallTooLong if the sweep took it for dead."""
        async with self._db.transaction() as tx:
            uploads = UploadRows(tx)
            if self._last_recorded is None:  # An empty file has no parts, so nothing of it was recorded.
                await uploads.insert(self.upload_id, self._user_id, UploadState.STORED, file.create_time)
            elif not await uploads.finish(self.upload_id):
                raise _given_up()
            await FileRows(tx).insert(file)

    async def discard(self) -> None:
        """Remove the parts, unless the upload is a file by now; what cannot be removed is left to the sweep."""
        self._part = bytearray()
        if self._storing is not None:
            await asyncio.wait((self._storing,))
            if not self._storing.cancelled():
                self._storing.exception()  # Looked at, so that nobody misses it: the upload is over anyway.
            self._storing = None
        if self._last_recorded is None:
            return
        try:
            async with self._db.transaction() as tx:
                discarded = await UploadRows(tx).discard(self.upload_id)
                is_file = not discarded and await UploadRows(tx).is_stored(self.upload_id)
            if discarded:
                await remove_discarded(self._db, self._store, self.upload_id)
            elif not is_file:  # The sweep was here, maybe before the part that it knew of was in the store.
                await self._store.delete([self._last_key])
        except (StoreFailed, DatabaseUnavailable) as error:
            log.warning("parts left to the sweep", upload_id=str(self.upload_id), cause=type(error).__name__)

    async def _flush(self) -> None:
        await self._settle()
        part = Part(self._stored_to, len(self._part), self._crc32c, self._store.new_key())
        self._storing = asyncio.create_task(self._record_and_store(part, self._part))
        self._stored_to += part.size_bytes
        self._part, self._crc32c = bytearray(), 0

    async def _settle(self) -> None:
        """Wait until the part in hand is stored. It is not cancelled with its caller: see `discard`."""
        if self._storing is not None:
            await asyncio.wait((self._storing,))
            storing, self._storing = self._storing, None
            storing.result()

    async def _record_and_store(self, part: Part, data: bytearray) -> None:
        now = self._clock()
        async with self._db.transaction() as tx:
            uploads = UploadRows(tx)
            if self._last_recorded is None:
                await uploads.insert(self.upload_id, self._user_id, UploadState.OPEN, now)
            elif not await uploads.touch(self.upload_id, now):
                raise _given_up()
            await uploads.insert_part(self.upload_id, part)
            self._last_recorded, self._last_key = now, part.key
        with told_to_the_client(self.upload_id):
            await self._store.put(part, [data], self._sha256.update)

    async def _touch(self) -> None:
        now = self._clock()
        async with self._db.transaction() as tx:
            if not await UploadRows(tx).touch(self.upload_id, now):
                raise _given_up()
        self._last_recorded = now


def _given_up() -> CallTooLong:
    return CallTooLong("The upload made no progress for too long, and was given up.")
