"""What the worker removes for auth because it has had its time. Each piece may be done again without harm."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from services.auth.domain.throttle import Throttle
from services.auth.repository.audit_events import AuditEvents
from services.auth.repository.email_codes import EmailCodeRows
from services.auth.repository.revocations import Revocations
from services.auth.repository.service_accounts import ServiceAccountRows
from services.auth.repository.sessions import Sessions
from services.auth.repository.signing_keys import SigningKeyRows
from services.kit.database import Database

log = structlog.get_logger()

SESSIONS_KEPT = timedelta(days=30)
REVOCATIONS_KEPT = timedelta(days=1)
AUDIT_BATCH = 10_000


class Chores:
    """The cleaning of auth's tables. Every piece is a transaction of its own."""

    def __init__(
        self, db: Database, throttle: Throttle, clock: Callable[[], datetime], *, audit_kept: timedelta
    ) -> None:
        self._db = db
        self._throttle = throttle
        self._clock = clock
        self._audit_kept = audit_kept

    async def delete_expired(self) -> None:
        """Remove all that has had its time."""
        await self.delete_expired_sessions()
        await self.delete_expired_codes()
        await self.delete_expired_revocations()
        await self.delete_old_throttles()
        await self.delete_expired_signing_keys()
        await self.delete_expired_service_secrets()
        await self.delete_old_audit_events()

    async def delete_expired_sessions(self) -> None:
        """Remove sessions that expired long ago with their refresh tokens, and tokens that were used up long ago."""
        before = self._clock() - SESSIONS_KEPT
        async with self._db.transaction() as tx:
            sessions = await Sessions(tx).delete_expired(before)
            tokens = await Sessions(tx).delete_exchanged_tokens(before)
        _tell(sessions=sessions, tokens=tokens)

    async def delete_expired_codes(self) -> None:
        """Remove mailed codes that are not good any more."""
        async with self._db.transaction() as tx:
            _tell(codes=await EmailCodeRows(tx).delete_expired(self._clock()))

    async def delete_expired_revocations(self) -> None:
        """Remove revocations when the last token that they concern has expired for a day."""
        async with self._db.transaction() as tx:
            _tell(revocations=await Revocations(tx).delete_expired(self._clock() - REVOCATIONS_KEPT))

    async def delete_old_throttles(self) -> None:
        """Remove counters of failures that nobody has used for long."""
        async with self._db.transaction() as tx:
            _tell(throttles=await self._throttle.delete_unused(tx))

    async def delete_expired_signing_keys(self) -> None:
        """Remove signing keys whose last tokens have expired."""
        async with self._db.transaction() as tx:
            _tell(signing_keys=await SigningKeyRows(tx).delete_expired(self._clock()))

    async def delete_expired_service_secrets(self) -> None:
        """Remove services' secrets that were replaced and are good no more."""
        async with self._db.transaction() as tx:
            _tell(service_secrets=await ServiceAccountRows(tx).delete_expired_secrets(self._clock()))

    async def delete_old_audit_events(self) -> None:
        """Remove audit events that have been kept for as long as was asked."""
        before, removed, more = self._clock() - self._audit_kept, 0, True
        while more:
            # By and by: there can be more of them than PostgreSQL removes before a statement has taken too long.
            async with self._db.transaction() as tx:
                gone = await AuditEvents(tx).delete_before(before, AUDIT_BATCH)
            removed, more = removed + gone, gone == AUDIT_BATCH
        _tell(audit_events=removed)


def _tell(**removed: int) -> None:
    if any(removed.values()):
        log.info("expired rows deleted", **removed)
