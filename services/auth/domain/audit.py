"""The audit log: what was done to accounts, and what was tried, as a row and as a log line."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.audit import AuditEvent, AuditType
from services.auth.repository.audit_events import AuditEvents
from services.kit.ids import uuid7
from services.kit.origin import NOWHERE, Origin

log = structlog.get_logger()


class Audit:
    """Takes down events in the transaction of the use case that they belong to."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    async def record(
        self,
        tx: AsyncConnection,
        kind: AuditType,
        *,
        origin: Origin = NOWHERE,
        actor_id: UUID | None = None,
        subject_id: UUID | None = None,
        session_id: UUID | None = None,
        **details: str,
    ) -> None:
        """Take down one event. `details` are never secrets, nor what somebody typed as an address or a password."""
        event = AuditEvent(
            uuid7(), kind, self._clock(), actor_id, subject_id, session_id, origin.address, origin.user_agent, details
        )
        await AuditEvents(tx).add_new(event)
        ids = {"actor_id": actor_id, "subject_id": subject_id, "session_id": session_id}
        log.info(
            "audit",
            type=str(kind),
            address=origin.address,
            **{name: str(value) for name, value in ids.items() if value is not None},
            **details,
        )
