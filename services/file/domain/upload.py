"""One upload on a stream: `start` or `resume`, any number of `chunk`, `finish`, and the file that it becomes."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import google_crc32c

from services.file.domain.bodies import Body
from services.file.errors import ChunkCorrupt, UploadIncomplete, UploadOutOfTurn
from services.file.models import Chunk, Finish, Progress, Resume, Start, Step, StoredFile


class Upload:
    """The state of one upload. It becomes a file in `commit` or not at all; `close` ends it."""

    def __init__(self, user_id: UUID, opened: Callable[[Start | Resume], Awaitable[Body]]) -> None:
        self.user_id = user_id
        self._opened = opened
        self.body: Body | None = None
        """Where its bytes go, once it is known which upload it is."""
        self.finished = False
        """Whether `finish` came and everything that was declared holds."""

    @property
    def progress(self) -> Progress | None:
        """How many of its bytes are noted as durable, if it can be resumed."""
        body = self.body
        return Progress(body.upload_id, body.persisted) if body is not None and body.is_named else None

    async def take(self, step: Step) -> None:
        """Take the next step. After a failure the upload is good for `close` only.

        Raises any failure of `parley.file.v1` that concerns uploads; UploadIncomplete only `commit` does.
        """
        if isinstance(step, Start | Resume):
            if self.body is not None:
                raise UploadOutOfTurn
            self.body = await self._opened(step)
            return
        if self.body is None or self.finished:
            raise UploadOutOfTurn
        if isinstance(step, Finish):
            await self.body.finish(step)
            self.finished = True
            return
        _check(step)
        await self.body.append(step)

    async def commit(self) -> StoredFile:
        """Make the finished upload a file, visible from now on. Raises UploadIncomplete without `finish`."""
        if self.body is None:
            raise UploadIncomplete
        if not self.finished:
            await self.body.close()
            raise UploadIncomplete(self.body.persisted if self.body.is_named else None)
        return await self.body.commit()

    async def close(self) -> None:
        """The stream is over: what can be resumed is kept, and nothing is left of what cannot."""
        if self.body is not None:
            await self.body.close()


def _check(chunk: Chunk) -> None:
    """Raises ChunkCorrupt."""
    if chunk.crc32c is not None and google_crc32c.value(chunk.data) != chunk.crc32c:
        raise ChunkCorrupt
