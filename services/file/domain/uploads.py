"""The uploads of this process, one to a stream or several."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from uuid import UUID

from services.file.domain.parts import PartWriter
from services.file.domain.slots import Slots
from services.file.domain.upload import Upload, UploadLimits
from services.file.errors import TooManyOpenUploads, UploadIncomplete, UploadOutOfTurn
from services.file.models import Start, Step, StoredFile
from services.file.store import PartStore
from services.kit.database import Database
from services.kit.errors import DomainError

REMEMBERED_KEYS = 4096

Outcome = StoredFile | DomainError


class Uploads:
    """Opens uploads, as many at a time as the process has memory for."""

    def __init__(self, db: Database, store: PartStore, *, clock: Callable[[], datetime], limits: UploadLimits) -> None:
        self.limits = limits
        self._db = db
        self._store = store
        self._clock = clock
        self._slots = Slots(in_the_process=limits.max_in_the_process, for_a_user=limits.max_for_a_user)
        self._ending: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def upload_file(self, user_id: UUID) -> AsyncIterator[Upload]:
        """One upload; what it has not committed at the end of the block is removed. Raises Overloaded."""
        upload = self.begin(user_id)
        try:
            yield upload
        finally:
            await self.end(upload)

    @asynccontextmanager
    async def upload_files(self, user_id: UUID) -> "AsyncIterator[UploadBatch]":
        """Several uploads, by key; what they have not committed at the end of the block is removed."""
        batch = UploadBatch(self, user_id)
        try:
            yield batch
        finally:
            await batch.close()

    def begin(self, user_id: UUID) -> Upload:
        """A new upload, which must be ended. Raises Overloaded."""
        self._slots.take(user_id)
        parts = PartWriter(
            self._db,
            self._store,
            self._clock,
            user_id=user_id,
            part_bytes=self.limits.part_bytes,
            heartbeat=self.limits.heartbeat,
        )
        return Upload(user_id, parts, self.limits, self._clock)

    async def end(self, upload: Upload) -> None:
        """The upload is over, one way or the other.

        The caller may be cancelled: a client that goes away while its upload is removed must not stop that.
        """
        ending = asyncio.create_task(self._end(upload))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.shield(ending)

    async def settle(self) -> None:
        """Wait for uploads that are being removed though their callers are gone."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _end(self, upload: Upload) -> None:
        try:
            await upload.close()
        finally:
            self._slots.give_back(upload.user_id)


class UploadBatch:
    """The uploads of one stream. Each has one outcome, and what still comes for it afterwards is passed over."""

    def __init__(self, uploads: Uploads, user_id: UUID) -> None:
        self._uploads = uploads
        self._user_id = user_id
        self._open: dict[str, Upload] = {}
        self._passed_over: OrderedDict[str, None] = OrderedDict()

    async def take(self, key: str, step: Step) -> Outcome | None:
        """Take the next step of an upload; its outcome, if that is known now."""
        if self._is_passed_over(key, starts=isinstance(step, Start)):
            return None
        try:
            if key not in self._open and not isinstance(step, Start):
                raise UploadOutOfTurn
            upload = self._open.get(key) or self._begin(key)
            await upload.take(step)
            if not upload.finished:
                return None
            file = await upload.commit()
        except DomainError as error:
            return await self._reject(key, error)
        await self._end(key)
        return file

    async def reject_message(self, key: str, error: DomainError, *, starts: bool) -> Outcome | None:
        """As `take`, of a message that is not valid, for this reason; `starts` says whether it is a `start`."""
        return None if self._is_passed_over(key, starts=starts) else await self._reject(key, error)

    async def end(self) -> list[tuple[str, Outcome]]:
        """The client sends no more: the outcome of each upload that is still open."""
        return [(key, await self._reject(key, UploadIncomplete())) for key in list(self._open)]

    async def close(self) -> None:
        """Remove what is still open: each, whatever becomes of the others."""
        async with AsyncExitStack() as stack:
            for key in self._open:
                stack.push_async_callback(self._end, key)

    def _is_passed_over(self, key: str, *, starts: bool) -> bool:
        """Whether it is of an upload that was rejected: the client sent it before it knew."""
        return key in self._passed_over and not starts

    async def _reject(self, key: str, error: DomainError) -> DomainError:
        self._passed_over[key] = None
        if len(self._passed_over) > REMEMBERED_KEYS:
            self._passed_over.popitem(last=False)
        await self._end(key)
        return error

    def _begin(self, key: str) -> Upload:
        if len(self._open) >= self._uploads.limits.max_on_a_stream:
            raise TooManyOpenUploads(self._uploads.limits.max_on_a_stream)
        self._passed_over.pop(key, None)
        self._open[key] = upload = self._uploads.begin(self._user_id)
        return upload

    async def _end(self, key: str) -> None:
        if (upload := self._open.pop(key, None)) is not None:
            await self._uploads.end(upload)
