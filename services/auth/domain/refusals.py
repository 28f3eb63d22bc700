"""Calls that were refused to callers who may not make them, taken down in the audit log."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import structlog

from services.auth.models.audit import AuditEvent, AuditType
from services.auth.repository.audit_events import AuditEvents
from services.kit.database import Database
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault
from services.kit.identity import Refusal

log = structlog.get_logger()

MAX_WAITING = 1_000
BATCH = 100
GATHER_SECONDS = 1.0
RETRY_SECONDS = 2.0
LAST_SECONDS = 1.0


class Refusals:
    """Takes down what other services report at once, and what this process refuses itself in the background."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: deque[Refusal] = deque()
        self._dropped = 0
        self._something_waits = asyncio.Event()

    async def record_refusals(self, refusals: Sequence[Refusal]) -> None:
        """Take them down; those that are known already are passed over."""
        async with self._db.read() as tx:
            await AuditEvents(tx).add([_event_of(refusal) for refusal in refusals])
        for refusal in refusals:
            log.info(
                "audit",
                type=str(AuditType.ACCESS_REFUSED),
                address=refusal.origin.address,
                actor_id=str(refusal.subject_id),
                session_id=str(refusal.session_id),
                method=refusal.method,
            )

    def note(self, refusal: Refusal) -> None:
        """Have one taken down soon. When more wait than can be kept, it is counted and dropped."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        self._waiting.append(refusal)
        self._something_waits.set()

    async def record_for_ever(self) -> None:
        """Take down what was noted."""
        while True:
            await self._something_waits.wait()
            await asyncio.sleep(GATHER_SECONDS)
            try:
                await self.record_noted()
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001  # without the next attempt, all that comes is lost
                log.warning("refusals cannot be recorded, trying again", fault=describe_fault(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def record_last(self) -> None:
        """Take down what still waits when the server ends, if that is soon done."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await self.record_noted()

    async def record_noted(self) -> None:
        """Take down what was noted so far. What fails stays, and is known by its id the next time."""
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            await self.record_refusals(batch)
            for _ in batch:
                self._waiting.popleft()
        self._something_waits.clear()
        if self._dropped:
            log.warning("refusals were not recorded, as too many came at once", dropped=self._dropped)
            self._dropped = 0


def _event_of(refusal: Refusal) -> AuditEvent:
    return AuditEvent(
        id=refusal.id,
        type=AuditType.ACCESS_REFUSED,
        create_time=refusal.create_time,
        actor_id=refusal.subject_id,
        subject_id=None,
        session_id=refusal.session_id,
        address=refusal.origin.address,
        user_agent=refusal.origin.user_agent,
        details={"method": refusal.method},
    )
