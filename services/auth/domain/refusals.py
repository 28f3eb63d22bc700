"""Calls that were refused to callers who may not make them, taken down in the audit log."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import structlog

from services.auth.models.audit import AuditEvent, AuditType
from services.auth.repository.audit_events import AuditEvents
from services.kit.database import Database
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault
from services.kit.refusal_tally import Refusal, RefusalTally

log = structlog.get_logger()

BATCH = 100
GATHER_SECONDS = 1.0
RETRY_SECONDS = 2.0
LAST_SECONDS = 1.0


class Refusals:
    """Takes down what other services report at once, and what this process refuses itself in the background."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._tally = RefusalTally()
        self._something_waits = asyncio.Event()

    async def record_refusals(self, refusals: Sequence[Refusal]) -> None:
        """Take them down; those that are known already are passed over."""
        async with self._db.read() as tx:
            new = await AuditEvents(tx).add([_event_of(refusal) for refusal in refusals])
        for refusal in refusals:
            if refusal.id not in new:
                continue
            new.remove(refusal.id)
            log.info(
                "audit",
                type=str(AuditType.ACCESS_REFUSED),
                address=refusal.origin.address,
                actor_id=str(refusal.subject_id),
                session_id=str(refusal.session_id),
                method=refusal.method,
                calls=refusal.count,
            )

    def note(self, refusal: Refusal) -> None:
        """Have one taken down soon, or with those that are like it."""
        self._tally.take(refusal)
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
        """Take down all that was noted when the server ends, if that is soon done."""
        self._tally.end_all()
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(LAST_SECONDS):
                await self.record_noted()

    async def record_noted(self) -> None:
        """Take down what is to be told by now. What fails stays, and is known by its id the next time."""
        while batch := self._tally.next(BATCH):
            await self.record_refusals(batch)
            self._tally.told(len(batch))
        if self._tally.is_empty:
            self._something_waits.clear()
        if dropped := self._tally.take_dropped():
            log.warning("refusals were not recorded, as too many came at once", dropped=dropped)


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
        details={"method": refusal.method, "calls": str(refusal.count)},
    )
