"""The uploads of one UploadFiles stream."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol
from uuid import UUID

from services.file.domain.upload import Upload
from services.file.errors import TooManyOpenUploads, UploadOutOfTurn
from services.file.models import Progress, Resume, Start, Step, StoredFile
from services.kit.errors import DomainError

REMEMBERED_KEYS = 4096

Outcome = StoredFile | DomainError


class Opener(Protocol):
    """Begins and ends uploads: `services.file.domain.uploads.Uploads`."""

    def begin(self, user_id: UUID, on_marked: Callable[[int], None]) -> Upload:
        """A new upload, which must be ended. Raises Overloaded."""

    async def end(self, upload: Upload) -> None:
        """The upload is over."""


class UploadBatch:
    """The uploads of one stream. Each has one outcome, and what still comes for it afterwards is passed over."""

    def __init__(self, uploads: Opener, user_id: UUID, *, most: int) -> None:
        self._uploads = uploads
        self._user_id = user_id
        self._most = most
        self._open: dict[str, Upload] = {}
        self._passed_over: OrderedDict[str, None] = OrderedDict()
        self._moved: dict[str, None] = {}
        self._any_moved = asyncio.Event()

    async def take(self, key: str, step: Step) -> Outcome | None:
        """Take the next step of an upload; its outcome, if that is known now."""
        starts = isinstance(step, Start | Resume)
        if self._is_passed_over(key, starts=starts):
            return None
        try:
            if key not in self._open and not starts:
                raise UploadOutOfTurn
            upload = self._open.get(key) or self._begin(key)
            await upload.take(step)
            if starts:
                self._note_moved(key)
            if not upload.finished:
                return None
            file = await upload.commit()
        except DomainError as error:
            return await self._reject(key, error)
        await self._end(key)
        return file

    async def reject_message(self, key: str, error: DomainError, *, starts: bool) -> Outcome | None:
        """As `take`, of a message that is not valid, for this reason; `starts` says whether it begins an upload."""
        return None if self._is_passed_over(key, starts=starts) else await self._reject(key, error)

    async def end(self) -> list[tuple[str, Outcome]]:
        """The client sends no more: the outcome of each upload that is still open."""
        outcomes: list[tuple[str, Outcome]] = []
        for key, upload in list(self._open.items()):
            try:
                await upload.commit()
            except DomainError as error:
                outcomes.append((key, await self._reject(key, error)))
        return outcomes

    async def close(self) -> None:
        """Close what is still open: each, whatever becomes of the others."""
        async with AsyncExitStack() as stack:
            for key in list(self._open):
                stack.push_async_callback(self._end, key)

    async def wait_for_progress(self) -> None:
        """Return once an upload that has a name has begun, or more of it is kept, since `progress` was last taken."""
        await self._any_moved.wait()

    def progress(self) -> list[tuple[str, Progress]]:
        """How far those uploads are that have moved since the last time and have no outcome yet."""
        moved, self._moved = self._moved, {}
        self._any_moved.clear()
        open_now = ((key, self._open.get(key)) for key in moved)
        return [
            (key, upload.progress) for key, upload in open_now if upload is not None and upload.progress is not None
        ]

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
        if len(self._open) >= self._most:
            raise TooManyOpenUploads(self._most)
        self._passed_over.pop(key, None)
        self._open[key] = upload = self._uploads.begin(self._user_id, lambda _: self._note_moved(key))
        return upload

    def _note_moved(self, key: str) -> None:
        self._moved[key] = None
        self._any_moved.set()

    async def _end(self, key: str) -> None:
        if (upload := self._open.pop(key, None)) is not None:
            await self._uploads.end(upload)
