"""Uploads as the database has them: begun, looked at, claimed by whoever writes them, and given up."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.file.domain.ledger import Claim
from services.file.domain.limits import UploadLimits
from services.file.errors import QuotaExceeded, UploadFinished, UploadNotFound
from services.file.models import Resume, Start, StoredFile, Upload, UploadState, Usage
from services.file.repository.files import FileRows
from services.file.repository.parts import PartRows
from services.file.repository.uploads import UploadRows
from services.file.repository.usage import UsageRows
from services.kit.database import Database
from services.kit.errors import RequestIdReused
from services.kit.ids import uuid7
from services.kit.pages import Page, PageRequest


class Claims:
    """What users can do with uploads that have a name. Others' uploads are not found."""

    def __init__(self, db: Database, *, clock: Callable[[], datetime], limits: UploadLimits) -> None:
        self._db = db
        self._clock = clock
        self._limits = limits

    async def usage(self, user_id: UUID) -> Usage:
        """What the user's files and open uploads use of the quota."""
        async with self._db.read() as tx:
            return await UsageRows(tx).get(user_id)

    async def create_upload(self, user_id: UUID, start: Start) -> Upload:
        """Begin an upload that can be resumed; with a `request_id` that was used before, the one that it began.

        Raises FileTooLarge, QuotaExceeded, RequestIdReused, UploadNotFound.
        """
        self._limits.check_size(start.size_bytes or 0)
        digest = _digest(start) if start.request_id else None
        lock = f"upload:{user_id}:{start.request_id}" if start.request_id else None
        async with self._db.transaction(lock=lock) as tx:
            if start.request_id and (before := await UploadRows(tx).find_created(user_id, start.request_id)):
                if before.draft_digest != digest:
                    raise RequestIdReused
                if before.state not in (UploadState.OPEN, UploadState.STORED):
                    raise UploadNotFound
                return before
            return await self._create(tx, user_id, start, digest)

    async def get_upload(self, user_id: UUID, upload_id: UUID) -> Upload:
        """The user's upload, as it is now. Raises UploadNotFound."""
        async with self._db.read() as tx:
            upload = await UploadRows(tx).get(user_id, upload_id)
        if upload is None:
            raise UploadNotFound
        return upload

    async def list_uploads(self, user_id: UUID, page: PageRequest) -> Page[Upload]:
        """A page of the user's open uploads, newest first."""
        async with self._db.read() as tx:
            return await UploadRows(tx).list_newest_first(user_id, page)

    async def cancel_upload(self, user_id: UUID, upload_id: UUID) -> None:
        """Give an open upload up; the sweep removes what is kept of it. Raises UploadNotFound, UploadFinished."""
        async with self._db.transaction() as tx:
            uploads = UploadRows(tx)
            upload = await uploads.get(user_id, upload_id)
            if upload is None:
                raise UploadNotFound
            if not await uploads.discard(user_id, upload_id, self._clock()):
                raise UploadFinished if upload.state == UploadState.STORED else UploadNotFound

    async def claim(self, user_id: UUID, step: Start | Resume) -> tuple[Claim, Start] | StoredFile:
        """Become the writer of an upload, and what was declared of it; or the file, if it is one already.

        Whoever wrote it before can record nothing more. Raises what `create_upload` does.
        """
        if isinstance(step, Start) and step.request_id is None:
            return await self._claim_nameless(user_id, step)
        upload_id = step.upload_id if isinstance(step, Resume) else (await self.create_upload(user_id, step)).id
        now = self._clock()
        async with self._db.transaction() as tx:
            upload = await UploadRows(tx).take_over(user_id, upload_id, now, now + self._limits.named_kept)
            if upload is not None:
                await PartRows(tx).give_up(user_id, upload_id, upload.persisted_size, now)
            elif await UploadRows(tx).get(user_id, upload_id) is None:
                raise UploadNotFound
            elif file := await FileRows(tx).find_of_upload(upload_id):
                return file
            else:
                raise UploadNotFound  # Its file was purged.
        claim = Claim(
            upload.id,
            user_id,
            epoch=upload.epoch,
            persisted=upload.persisted_size,
            is_named=True,
            kept=self._limits.named_kept,
        )
        declared = Start(
            upload.filename, upload.content_type, upload.size_bytes, upload.sha256, upload.crc32c, upload.labels
        )
        return claim, declared

    async def _claim_nameless(self, user_id: UUID, start: Start) -> tuple[Claim, Start]:
        """An upload that the database hears of with its first part, which is counted against the quota then."""
        self._limits.check_size(start.size_bytes or 0)
        if start.size_bytes and start.size_bytes > self._limits.part_bytes:
            async with self._db.read() as tx:
                await self._check_quota(tx, user_id, start)
        claim = Claim(uuid7(), user_id, epoch=0, persisted=0, is_named=False, kept=self._limits.unfinished_kept)
        return claim, start

    async def _create(self, tx: AsyncConnection, user_id: UUID, start: Start, digest: bytes | None) -> Upload:
        await self._check_quota(tx, user_id, start)
        now = self._clock()
        expire_time = now + self._limits.named_kept
        upload = await UploadRows(tx).create(uuid7(), user_id, start, digest, now, expire_time, self._limits.quota)
        if upload is None:
            raise QuotaExceeded(*self._limits.quota)
        return upload

    async def _check_quota(self, tx: AsyncConnection, user_id: UUID, start: Start) -> None:
        """Refuse at once what cannot end well; it is counted exactly as its parts come. Raises QuotaExceeded."""
        used = await UsageRows(tx).get(user_id)
        if used.bytes + (start.size_bytes or 0) > self._limits.quota.bytes or used.files >= self._limits.quota.files:
            raise QuotaExceeded(*self._limits.quota)


def _digest(start: Start) -> bytes:
    payload = asdict(start)
    payload["sha256"] = start.sha256.hex() if start.sha256 else None
    payload["labels"] = dict(start.labels)
    del payload["request_id"]
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).digest()
