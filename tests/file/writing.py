"""One upload's bytes on their way to the store, without a server around it."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from services.file.domain.digest import Digest
from services.file.domain.hashing import Hashing
from services.file.domain.ledger import Claim, Ledger
from services.file.domain.memory import MemoryBudget
from services.file.domain.parts import PartWriter
from services.file.domain.singles import Singles
from services.file.models import Usage
from services.file.store import PartStore
from services.kit.database import Database
from services.kit.ids import utc_now, uuid7
from tests.file.steps import MIB, PART

QUOTA = Usage(2**50, 1000)


def part_writer(
    database: Database, store: PartStore, user_id: UUID, *, clock: Callable[[], datetime] = utc_now
) -> PartWriter:
    """Writes an upload that has no name and is kept for an hour."""
    claim = Claim(uuid7(), user_id, epoch=0, persisted=0, is_named=False, kept=timedelta(hours=1))
    ledger = Ledger(database, store, clock, claim, quota=QUOTA, on_marked=lambda _: None)
    hashing = Hashing(database, store, claim.upload_id, Digest(), 0, asyncio.Semaphore())
    singles = Singles(database, store, clock=clock, quota=QUOTA)
    return PartWriter(ledger, store, singles, MemoryBudget(16 * MIB), hashing, part_bytes=PART)
