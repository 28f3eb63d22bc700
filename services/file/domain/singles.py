"""Files of a single part: stored under a name that was recorded in advance, and published several at a time."""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import structlog

from services.file.domain.reserve import Reserve
from services.file.errors import QuotaExceeded
from services.file.models import Part, StoredFile, Usage
from services.file.repository.reserved import ReservedRows
from services.file.store import PartStore, StoreFailed
from services.kit.batched import Batched
from services.kit.database import Database
from services.kit.errors import CallTooLong, DatabaseUnavailable

log = structlog.get_logger()

Single = tuple[StoredFile, Part]


class Singles:
    """What most files need: their bytes on the disk, and one statement of the database that many of them share."""

    def __init__(self, db: Database, store: PartStore, *, clock: Callable[[], datetime], quota: Usage) -> None:
        self._db = db
        self._store = store
        self._clock = clock
        self._quota = quota
        self._reserve = Reserve(db, clock=clock)
        self._publishing = Batched(self._publish)

    async def new_key(self) -> str:
        """A name for a part that is to be stored at once. Raises DatabaseUnavailable."""
        return await self._reserve.take()

    async def publish(self, file: StoredFile, part: Part) -> None:
        """Make a file, visible from now on, of its one part, which is durable.

        Raises QuotaExceeded, DatabaseUnavailable, and CallTooLong if the part's name was given up meanwhile.
        """
        await self._publishing.do(file.user_id, (file, part))

    async def discard(self, key: str) -> None:
        """Remove a part, unless it is a file's; what cannot be removed is left to the sweep."""
        try:
            async with self._db.read() as tx:
                given_up = await ReservedRows(tx).give_up([key], self._clock())
            if given_up:
                await self._store.delete(given_up)
                async with self._db.read() as tx:
                    await ReservedRows(tx).forget(given_up)
        except (StoreFailed, DatabaseUnavailable) as error:
            log.warning("part left to the sweep", key=key, cause=type(error).__name__)

    async def close(self) -> None:
        """Nothing is stored any more."""
        await self._reserve.close()

    async def _publish(self, user_id: UUID, files: Sequence[Single]) -> Sequence[Exception | None]:
        async with self._db.read() as tx:
            rows = ReservedRows(tx)
            reserved, have_room = await rows.publish(user_id, files, self._clock(), self._quota)
            outcome = {part.key: _failure(part, reserved, self._quota, have_room=have_room) for _, part in files}
            if not have_room and len(reserved) > 1:  # Perhaps some of them have.
                for file, part in files:
                    if part.key in reserved:
                        one, has_room = await rows.publish(user_id, [(file, part)], self._clock(), self._quota)
                        outcome[part.key] = _failure(part, one, self._quota, have_room=has_room)
        return [outcome[part.key] for _, part in files]


def _failure(part: Part, reserved: set[str], quota: Usage, *, have_room: bool) -> Exception | None:
    if part.key not in reserved:
        return CallTooLong("The upload took too long, and was given up.")
    return None if have_room else QuotaExceeded(*quota)
