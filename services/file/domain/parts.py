"""From bytes to stored parts."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from services.file.domain.digest import Digest
from services.file.domain.failures import told_to_the_client
from services.file.domain.filling import Filling
from services.file.domain.hashing import Hashing
from services.file.domain.ledger import Ledger
from services.file.domain.memory import MemoryBudget
from services.file.domain.singles import Singles
from services.file.models import Part, StoredFile
from services.file.store import PartStore
from services.kit.errors import DatabaseUnavailable, DomainError

STORING_AT_A_TIME = 2
MARK_AFTER = 0.25
"""Seconds after which a part that is stored is noted as durable, if no other part is recorded before."""


class PartWriter:
    """Stores the bytes of one upload as parts: one fills while two at the most are being stored.

    A part is recorded before it is stored. `persisted` grows over parts in their order, and is noted a moment later.
    After a failure it is good for `keep` or `discard` only.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: PartStore,
        singles: Singles,
        memory: MemoryBudget,
        hashing: Hashing,
        *,
        part_bytes: int,
    ) -> None:
        self.received = ledger.claim.persisted
        """The offset of the byte that comes next."""
        self._ledger = ledger
        self._store = store
        self._singles = singles
        self._single: Part | None = None
        self._memory = memory
        self._hashing = hashing
        self._part_bytes = part_bytes
        self._filling = Filling(self.received)
        self._storing: deque[tuple[Part, asyncio.Task[None]]] = deque()
        self._persisted = self.received
        self._stored: dict[int, int] = {}
        # Only the last parts can come to the store after their upload was given up.
        self._keys: deque[str] = deque(maxlen=STORING_AT_A_TIME + 1)
        self._turn = asyncio.Lock()
        self._marking: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._is_closing = False
        memory.enter(self)

    @property
    def upload_id(self) -> UUID:
        """The upload."""
        return self._ledger.claim.upload_id

    @property
    def noted(self) -> int:
        """How many bytes are noted as durable."""
        return self._ledger.marked

    @property
    def filling(self) -> Filling:
        """What is not yet on its way to the store."""
        return self._filling

    @property
    def in_hand(self) -> Sequence[Part]:
        """The parts on their way to the store, of which the database may not know yet."""
        return [part for part, _ in self._storing]

    @property
    def digest(self) -> Digest | None:
        """What is known of the bytes that are noted as durable, for whoever goes on; None if nothing is.

        Those that are stored beyond may be given up, and others come in their place.
        """
        return self._hashing.at(self._ledger.marked)

    async def add(self, data: bytes) -> None:
        """Take the bytes that follow.

        Raises what went wrong with a part before: StoreUnavailable, QuotaExceeded, UploadTakenOver, UploadNotFound,
        CallTooLong.
        """
        while self._storing and self._storing[0][1].done():
            await self._settle_one()
        self._check_going()
        if self._ledger.is_quiet:
            await self._mark()
        while data:
            room = self._part_bytes - self._filling.size
            fitting, data = (data, b"") if len(data) <= room else (data[:room], data[room:])
            await self._make_room(len(fitting))
            self._filling.add(fitting)
            self.received += len(fitting)
            if self._filling.size == self._part_bytes:
                await self._flush()

    @property
    def held(self) -> int:
        """As memory.Holder."""
        return self._filling.size

    def let_go(self) -> int:
        """As memory.Holder; at any moment of the others' work on this upload."""
        size = self._filling.size
        in_hand = sum(not task.done() for _, task in self._storing)
        if not size or self._is_closing or self._failure is not None or in_hand >= self._most_in_hand:
            return 0
        self._store_filling()
        return size

    async def close(self) -> Digest:
        """Store what is left. It is durable on return, which says what holds of it. Raises as `add`, StoredDataLost."""
        self._is_closing = True
        if not self._ledger.is_recorded and not self._storing and self._filling.size:
            return await self._store_single()
        await self._flush(is_last=True)
        while self._storing:
            await self._settle_one()
        self._check_going()
        digest = await self._hashing.complete()
        assert digest.position == self.received
        return digest

    async def publish(self, file: StoredFile) -> None:
        """Make the closed upload a file. Raises as Ledger.publish."""
        if self._single is not None:
            await self._singles.publish(file, self._single)
        else:
            await self._ledger.publish(file)
        await self._end()

    async def keep(self) -> None:
        """Store what is left, so that as much as can be is there for whoever goes on. Raises nothing of what fails."""
        self._is_closing = True
        try:
            with suppress(DomainError):  # Of a part before; the client has heard of it.
                await self._flush()
        finally:
            await self._end()
        with suppress(DomainError):  # Then there is less to go on from: whoever does gives up the rest.
            if await self._ledger.keep(self._persisted):
                return
        await self._ledger.remove_unneeded(list(self._keys))

    async def discard(self) -> None:
        """Remove the parts, unless the upload is a file by now; what cannot be removed is left to the sweep."""
        await self._end()
        if self._single is not None:
            await self._singles.discard(self._single.key)
        else:
            await self._ledger.discard()
            # The sweep may have been here before the last of them were stored.
            await self._ledger.remove_unneeded(list(self._keys))

    async def _store_single(self) -> Digest:
        """All bytes that came are in hand: the database hears of them when they are a file."""
        key = await self._singles.new_key()
        offset, size, crc32c, runs = self._filling.taken()
        self._filling = Filling(size)
        self._single = Part(offset, size, crc32c, key)
        # It is not cancelled with its caller: what comes to the store after `discard` nobody would know of.
        self._storing.append((self._single, asyncio.create_task(self._put_single(self._single, runs))))
        await self._settle_one()
        return self._hashing.digest

    async def _put_single(self, part: Part, runs: list[bytes]) -> None:
        try:
            with told_to_the_client(self.upload_id):
                await self._store.put(part, runs, self._hashing.digest.take_one)
        finally:
            self._memory.give_back(part.size_bytes)

    async def _make_room(self, amount: int) -> None:
        if self._memory.try_take(amount):
            return
        # Whoever waits has nothing that fills: it is on its way to the store, and its memory comes back.
        await self._flush()
        await self._memory.take(amount)

    async def _flush(self, *, is_last: bool = False) -> None:
        while self._filling.size and len(self._storing) >= self._most_in_hand:
            await self._settle_one()
        if self._filling.size:  # It may have been let go meanwhile.
            self._store_filling(is_last=is_last)

    @property
    def _most_in_hand(self) -> int:
        return 1 if self._hashing.is_behind else STORING_AT_A_TIME

    def _store_filling(self, *, is_last: bool = False) -> None:
        offset, size, crc32c, runs = self._filling.taken()
        part = Part(offset, size, crc32c, self._store.new_key())
        self._filling = Filling(part.end)
        # What comes alone is hashed where it is stored, which saves a small file a change of threads.
        by_itself = is_last and self._hashing.is_idle
        hashed = None if by_itself else self._hashing.follow(offset, runs)
        self._storing.append(
            (part, asyncio.create_task(self._record_and_store(part, runs, hashed, by_itself=by_itself)))
        )

    async def _record_and_store(
        self, part: Part, runs: list[bytes], hashed: asyncio.Task[None] | None, *, by_itself: bool
    ) -> None:
        try:
            async with self._turn:
                self._check_going()
                await self._ledger.record(part, self._persisted)
                self._keys.append(part.key)
            with told_to_the_client(self.upload_id):
                await self._store.put(part, runs, self._hashing.digest.take_one if by_itself else _unhashed)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            if hashed is not None:
                await asyncio.wait((hashed,))
            runs.clear()
            self._memory.give_back(part.size_bytes)
        self._note_stored(part)

    def _check_going(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _note_stored(self, part: Part) -> None:
        self._stored[part.offset_bytes] = part.end
        while self._persisted in self._stored:
            self._persisted = self._stored.pop(self._persisted)
        self._hashing.note_durable(self._persisted)
        if self._ledger.claim.is_named and self._marking is None:
            self._marking = asyncio.create_task(self._mark_later(), name="mark-upload")

    async def _mark_later(self) -> None:
        try:
            while self._ledger.marked < self._persisted:
                await asyncio.sleep(MARK_AFTER)
                with suppress(DatabaseUnavailable):
                    await self._mark()
        except DomainError as error:
            self._failure = error  # Somebody else has the upload: whoever stores the next part hears of it.
        finally:
            self._marking = None

    async def _mark(self) -> None:
        async with self._turn:
            if self._ledger.marked < self._persisted or self._ledger.is_quiet:
                await self._ledger.mark(self._persisted)

    async def _settle_one(self) -> None:
        """Wait until the oldest part in hand is stored. It is not cancelled with its caller: see `keep`."""
        task = self._storing[0][1]
        await asyncio.wait((task,))
        self._storing.popleft()
        task.result()

    async def _end(self) -> None:
        """Wait for all that is under way, and let go of what has not been sent."""
        self._is_closing = True
        if self._storing:
            await asyncio.wait([task for _, task in self._storing])
        for _, task in self._storing:
            if not task.cancelled():
                task.exception()  # Looked at: the upload is over anyway.
        self._storing.clear()
        if self._marking is not None:
            self._marking.cancel()
            await asyncio.wait((self._marking,))
        await self._hashing.stop()
        self._memory.give_back(self._filling.size)
        self._filling = Filling(self.received)


def _unhashed(_run: object) -> None:
    """It is hashed elsewhere."""
