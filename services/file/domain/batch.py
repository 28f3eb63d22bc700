"""The uploads of one UploadFiles stream."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Protocol
from uuid import UUID

from services.file.domain.upload import Upload
from services.file.errors import TooManyOpenUploads, UploadOutOfTurn
from services.file.models import Finish, Progress, Resume, Start, Step, StoredFile
from services.kit.errors import CallTooLong, DomainError
from services.kit.faults import incident_of

REMEMBERED_KEYS = 4096
MOST_WAITING = 256

Outcome = StoredFile | DomainError


class Opener(Protocol):
    """Begins and ends uploads: `services.file.domain.uploads.Uploads`."""

    def begin(self, user_id: UUID, on_marked: Callable[[int], None]) -> Upload:
        """A new upload, which must be ended. Raises Overloaded."""

    async def end(self, upload: Upload) -> None:
        """The upload is over."""


class UploadBatch:
    """The uploads of one stream. Each has one outcome, and what still comes for it afterwards is passed over.

    One task gives it what comes, another takes the answers. A file is finished while the next ones come in.
    """

    def __init__(self, uploads: Opener, user_id: UUID, *, most: int, patience: float) -> None:
        """At `most` so many are open at a time; answers that nobody takes for `patience` seconds end the stream."""
        self._uploads = uploads
        self._user_id = user_id
        self._most = most
        self._patience = patience
        self._open: dict[str, Upload] = {}
        self._finishing: dict[str, asyncio.Task[None]] = {}
        self._passed_over: OrderedDict[str, None] = OrderedDict()
        self._moved: dict[str, None] = {}
        self._outcomes: deque[tuple[str, Outcome]] = deque()
        self._has_ended = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    def is_busy(self, key: str) -> bool:
        """Whether what comes for an upload waits for something else than memory: its end, or answers to be taken."""
        return key in self._finishing or len(self._outcomes) >= MOST_WAITING

    async def take(self, key: str, step: Step) -> None:
        """Take the next step of an upload. It waits while too many answers have not been taken. Raises CallTooLong."""
        await self._until_free(key)
        starts = isinstance(step, Start | Resume)
        if self._is_passed_over(key, starts=starts):
            return
        try:
            if key not in self._open and not starts:
                raise UploadOutOfTurn
            upload = self._open.get(key) or await self._begin(key)
            if isinstance(step, Finish):
                self._finishing[key] = asyncio.create_task(self._finish(key, upload, step), name="finish-upload")
                return
            await upload.take(step)
            if starts:
                self._note_moved(key)
        except DomainError as error:
            await self._reject(key, error)

    async def reject_message(self, key: str, error: DomainError, *, starts: bool) -> None:
        """As `take`, of a message that is not valid, for this reason; `starts` says whether it begins an upload."""
        await self._until_free(key)
        if not self._is_passed_over(key, starts=starts):
            await self._reject(key, error)

    async def end(self) -> None:
        """The client sends no more: every upload that is still open has its outcome on return."""
        for task in list(self._finishing.values()):
            await task
        for key, upload in list(self._open.items()):
            try:
                await upload.commit()
            except DomainError as error:
                await self._reject(key, error)
        self._has_ended = True
        self._news.set()

    async def answers(self) -> AsyncGenerator[tuple[str, Outcome | Progress], None]:
        """The outcomes, and how far those with a name are that have none yet, until `end` and the last outcome."""
        while True:
            while self._outcomes:
                yield self._outcomes.popleft()
                self._room.set()
            moved, self._moved = self._moved, {}
            for key in moved:
                if (upload := self._open.get(key)) is not None and (progress := upload.progress) is not None:
                    yield key, progress
            if self._outcomes or self._moved:
                continue
            if self._has_ended:
                return
            self._news.clear()
            await self._news.wait()

    async def close(self) -> None:
        """Close what is still open: each, whatever becomes of the others."""
        if self._finishing:
            await asyncio.wait(self._finishing.values())
        async with AsyncExitStack() as stack:
            for key in list(self._open):
                stack.push_async_callback(self._end, key)

    async def _until_free(self, key: str) -> None:
        if (finishing := self._finishing.get(key)) is not None:
            await asyncio.wait((finishing,))
        while len(self._outcomes) >= MOST_WAITING:
            self._room.clear()
            try:
                async with asyncio.timeout(self._patience):
                    await self._room.wait()
            except TimeoutError as error:
                raise CallTooLong("The answers were not read for too long.") from error

    async def _finish(self, key: str, upload: Upload, step: Finish) -> None:
        try:
            await upload.take(step)
            file = await upload.commit()
        except DomainError as error:
            await self._reject(key, error)
        except Exception as error:  # noqa: BLE001  # of this file alone: the stream goes on with the others
            await self._reject(key, incident_of(error, upload=key))
        else:
            await self._end(key)
            self._answer(key, file)
        finally:
            del self._finishing[key]

    def _is_passed_over(self, key: str, *, starts: bool) -> bool:
        """Whether it is of an upload that was rejected: the client sent it before it knew."""
        return key in self._passed_over and not starts

    async def _reject(self, key: str, error: DomainError) -> None:
        self._passed_over[key] = None
        if len(self._passed_over) > REMEMBERED_KEYS:
            self._passed_over.popitem(last=False)
        await self._end(key)
        self._answer(key, error)

    async def _begin(self, key: str) -> Upload:
        while len(self._open) >= self._most and self._finishing:  # The client has sent them whole.
            await asyncio.wait(self._finishing.values(), return_when=asyncio.FIRST_COMPLETED)
        if len(self._open) >= self._most:
            raise TooManyOpenUploads(self._most)
        self._passed_over.pop(key, None)
        self._open[key] = upload = self._uploads.begin(self._user_id, lambda _: self._note_moved(key))
        return upload

    def _note_moved(self, key: str) -> None:
        self._moved[key] = None
        self._news.set()

    def _answer(self, key: str, outcome: Outcome) -> None:
        self._outcomes.append((key, outcome))
        self._news.set()

    async def _end(self, key: str) -> None:
        if (upload := self._open.pop(key, None)) is not None:
            await self._uploads.end(upload)
