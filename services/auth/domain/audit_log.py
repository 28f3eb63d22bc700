"""Reading the audit log."""

from services.auth.models.audit import AuditEvent
from services.auth.repository.audit_events import FILTER, AuditEvents
from services.kit.database import Database
from services.kit.pages import Page, PageRequest


class AuditLog:
    """What was done to accounts, for administrators."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def list_audit_events(self, page: PageRequest, written_filter: str) -> Page[AuditEvent]:
        """A page of the events that a filter lets through, newest first. Raises FilterInvalid."""
        conditions = FILTER.read(written_filter)
        async with self._db.read() as tx:
            return await AuditEvents(tx).list_newest_first(page, conditions)
