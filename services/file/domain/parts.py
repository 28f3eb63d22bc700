"""From bytes to stored parts."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import google_crc32c

from services.file.domain.digest import Digest
from services.file.domain.failures import told_to_the_client
from services.file.domain.ledger import Ledger
from services.file.domain.memory import MemoryBudget
from services.file.models import Buffer, Part, StoredFile
from services.file.store import PartStore
from services.kit.errors import DomainError

STORING_AT_A_TIME = 2
MARK_AFTER = 0.25
"""Seconds after which a part that is stored is noted as durable, if no other part is recorded before."""
SMALL_RUN = 64 * 1024
"""Runs of bytes up to this are put together: each by itself would cost a multiple of its bytes when they are tiny."""
PARTS_AT_A_TIME = 100


@dataclass(slots=True)
class _Filling:
    """The part that fills."""

    offset: int
    size: int = 0
    crc32c: int = 0
    runs: list[Buffer] = field(default_factory=list)

    def add(self, data: Buffer) -> None:
        self.crc32c = google_crc32c.extend(self.crc32c, data)  # type: ignore[arg-type]  # it takes any buffer
        self.size += len(data)
        if len(data) > SMALL_RUN:
            self.runs.append(data)
            return
        if not self.runs or not isinstance(self.runs[-1], bytearray):
            self.runs.append(bytearray())
        last = self.runs[-1]
        assert isinstance(last, bytearray)
        last += data


class PartWriter:
    """Stores the bytes of one upload as parts: one fills while two at the most are being stored.

    A part is recorded before it is stored. `persisted` grows over parts in their order, and is noted a moment later.
    After a failure it is good for `keep` or `discard` only.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: PartStore,
        memory: MemoryBudget,
        digest: Digest | None,
        *,
        part_bytes: int,
        on_marked: Callable[[int], None],
    ) -> None:
        self.received = ledger.claim.persisted
        """The offset of the byte that comes next."""
        self._ledger = ledger
        self._store = store
        self._memory = memory
        self._part_bytes = part_bytes
        self._on_marked = on_marked
        self._is_behind = digest is None and self.received > 0
        self._digest = digest or Digest()
        self._filling = _Filling(self.received)
        self._storing: deque[asyncio.Task[None]] = deque()
        self._persisted = self.received
        self._stored: dict[int, int] = {}
        self._stored_keys: dict[int, str] = {}
        self._turn = asyncio.Lock()
        self._marking: asyncio.Task[None] | None = None
        self._is_over = False

    @property
    def upload_id(self) -> UUID:
        """The upload."""
        return self._ledger.claim.upload_id

    @property
    def filling(self) -> tuple[int, list[Buffer]]:
        """What is not yet on its way to the store: where it begins, and its bytes."""
        return self._filling.offset, self._filling.runs

    @property
    def digest(self) -> Digest | None:
        """What is known of the bytes that are persisted, for whoever goes on; None if it is not known."""
        return self._digest if self._digest.position == self._persisted else None

    async def add(self, data: Buffer) -> None:
        """Take the bytes that follow.

        Raises what went wrong with a part before: StoreUnavailable, QuotaExceeded, UploadTakenOver, UploadNotFound.
        """
        while self._storing and self._storing[0].done():
            self._storing.popleft().result()
        if self._ledger.is_quiet:
            await self._ledger.mark(self._persisted)
        view = memoryview(data)
        while view:
            fitting = view[: self._part_bytes - self._filling.size]
            view = view[len(fitting) :]
            await self._make_room(len(fitting))
            self._filling.add(fitting)
            self.received += len(fitting)
            if self._filling.size == self._part_bytes:
                await self._flush()

    async def close(self) -> Digest:
        """Store what is left. All is durable on return, which is what holds of all bytes."""
        await self._flush()
        while self._storing:
            await self._settle_one()
        if self._is_behind:
            await self._catch_up()
        return self._digest

    async def publish(self, file: StoredFile) -> None:
        """Make the closed upload a file. Raises as Ledger.publish."""
        await self._ledger.publish(file)
        self._end()

    async def keep(self) -> None:
        """Store what is left, so that as much as can be is there for whoever resumes the upload. Raises nothing of it."""
        try:
            await self._flush()
        except DomainError:
            pass  # A part before it failed, and the client has heard of it.
        await self._wait_for_all()
        self._end()
        try:
            await self._ledger.keep(self._persisted)
        except DomainError:
            pass  # Then there is less to go on from: whoever resumes gives up the rest.
        await self._remove_unneeded()

    async def discard(self) -> None:
        """Remove the parts, unless the upload is a file by now; what cannot be removed is left to the sweep."""
        await self._wait_for_all()
        self._end()
        await self._ledger.discard()
        await self._remove_unneeded()

    async def _make_room(self, amount: int) -> None:
        if self._memory.try_take(amount):
            return
        # Whoever waits has nothing that fills: it is on its way to the store, and its memory comes back.
        await self._flush()
        await self._memory.take(amount)

    async def _flush(self) -> None:
        if not self._filling.size:
            return
        while len(self._storing) >= (1 if self._is_behind else STORING_AT_A_TIME):
            await self._settle_one()
        filled = self._filling
        part = Part(filled.offset, filled.size, filled.crc32c, self._store.new_key())
        self._filling = _Filling(part.end)
        self._storing.append(asyncio.create_task(self._record_and_store(part, filled.runs)))

    async def _settle_one(self) -> None:
        """Wait until the oldest part in hand is stored. It is not cancelled with its caller: see `keep`."""
        await asyncio.wait(self._storing)if False else await asyncio.wait((self._storing[0],))
        self._storing.popleft().result()
