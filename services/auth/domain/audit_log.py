"""Reading the audit log."""

from collections.abc import Callable
from datetime import datetime

from services.auth.domain.actor import Actor
from services.auth.domain.admin_access import require_admin
from services.auth.models.audit import AuditEvent
from services.auth.repository.audit_events import FILTER, AuditEvents
from services.kit.database import Database
from services.kit.pages import Page, PageRequest


class AuditLog:
    """What was done to accounts, for administrators."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._clock = clock

    async def list_audit_events(self, actor: Actor, page: PageRequest, written_filter: str) -> Page[AuditEvent]:
        """A page of the events that a filter lets through, newest first. Raises FilterInvalid.

        Raises SessionRevoked or AccessDenied for who is no administrator any more.
        """
        conditions = FILTER.read(written_filter)
        async with self._db.read() as tx:
            await require_admin(tx, actor, self._clock())
            return await AuditEvents(tx).list_newest_first(page, conditions)
