"""Who may read a file besides its owner: asked of the services that it is used in, and remembered for seconds."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from time import monotonic
from uuid import UUID

from services.file.models import StoredFile
from services.file.owners import Owners

YES_SECONDS = 5.0
NO_SECONDS = 1.0
MOST = 16_384

Pair = tuple[UUID, UUID]


class Readers:
    """Answers for pairs of user and file.

    All who ask about a pair at the same time share one question. Its answer is kept: a yes for 5 seconds, and a no for
    1, so that who is let in need not wait for long; a failure is not. There is space for 16,384 answers.
    """

    def __init__(self, owners: Owners, *, clock: Callable[[], float] = monotonic) -> None:
        self._owners = owners
        self._clock = clock
        self._answers: OrderedDict[Pair, tuple[bool, float]] = OrderedDict()
        self._asking: dict[Pair, asyncio.Task[bool]] = {}

    async def is_for(self, user_id: UUID, file: StoredFile) -> bool:
        """Whether a user may read a file; nobody is asked about its owner. Raises DependencyUnavailable."""
        return file.user_id == user_id or await self.may_read(user_id, file.id)

    async def may_read(self, user_id: UUID, file_id: UUID) -> bool:
        """Whether a user may read a file that is somebody else's. Raises DependencyUnavailable if nobody knows."""
        pair = user_id, file_id
        answer, good_until = self._answers.get(pair, (False, 0.0))
        if self._clock() < good_until:
            self._answers.move_to_end(pair)
            return answer
        asking = self._asking.get(pair)
        if asking is None:
            # In a context of its own: it is asked for all who wait, and outlasts the one that came first.
            asking = asyncio.get_running_loop().create_task(self._ask(pair), name="ask-file-reader", context=Context())
            self._asking[pair] = asking
            asking.add_done_callback(lambda asked: self._forget(pair, asked))
        return await asyncio.shield(asking)

    async def close(self) -> None:
        """Ask no more."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, pair: Pair) -> bool:
        answer = await self._owners.may_read(*pair)
        self._answers[pair] = answer, self._clock() + (YES_SECONDS if answer else NO_SECONDS)
        self._answers.move_to_end(pair)
        if len(self._answers) > MOST:
            self._answers.popitem(last=False)
        return answer

    def _forget(self, pair: Pair, asked: asyncio.Task[bool]) -> None:
        del self._asking[pair]
        if not asked.cancelled():
            asked.exception()  # It is told to who waits; perhaps nobody does any more.


@asynccontextmanager
async def open_readers(owners: Owners) -> AsyncIterator[Readers]:
    """Readers that ask for the time of the block."""
    readers = Readers(owners)
    try:
        yield readers
    finally:
        await readers.close()
