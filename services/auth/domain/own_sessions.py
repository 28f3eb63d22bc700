"""Sessions as their user sees and ends them."""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.audit import Audit
from services.auth.domain.live_sessions import require_live_session
from services.auth.domain.revocations import Revoker
from services.auth.errors import SessionNotFound
from services.auth.models.audit import AuditType
from services.auth.models.sessions import Session
from services.auth.repository.sessions import Sessions
from services.kit.database import Database
from services.kit.errors import SessionRevoked
from services.kit.origin import Origin
from services.kit.pages import Page, PageRequest


class LogoutScope(StrEnum):
    """Which sessions to end."""

    CURRENT = "CURRENT"
    OTHERS = "OTHERS"
    ALL = "ALL"


class OwnSessions:
    """The use cases of somebody who is signed in. All of them raise SessionRevoked and UserNotFound."""

    def __init__(self, db: Database, revoker: Revoker, audit: Audit, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._revoker = revoker
        self._audit = audit
        self._clock = clock

    async def list_sessions(self, user_id: UUID, session_id: UUID, page: PageRequest) -> Page[Session]:
        """A page of the user's sessions that have neither ended nor expired, newest first."""
        now = self._clock()
        async with self._db.read() as tx:
            await require_live_session(tx, user_id, session_id, now)
            return await Sessions(tx).list_live(user_id, page, now)

    async def revoke_session(self, user_id: UUID, session_id: UUID, revoked_id: UUID, origin: Origin) -> None:
        """End one of the user's sessions; nothing more happens to one that has ended. Raises SessionNotFound."""
        async with self._db.transaction() as tx:
            await require_live_session(tx, user_id, session_id, self._clock())
            session = await Sessions(tx).get(revoked_id)
            if session is None or session.user_id != user_id:
                raise SessionNotFound
            revocation = await self._revoker.end_sessions(tx, user_id, only=revoked_id)
            if revocation is not None:
                await self._record(tx, AuditType.SESSION_REVOKED, user_id, revoked_id, origin)
        self._revoker.announce(revocation)

    async def logout(self, user_id: UUID, session_id: UUID, scope: LogoutScope, origin: Origin) -> None:
        """End the session of the call, all others, or all."""
        async with self._db.transaction() as tx:
            await require_live_session(tx, user_id, session_id, self._clock())
            revocation = await self._revoker.end_sessions(
                tx,
                user_id,
                only=session_id if scope == LogoutScope.CURRENT else None,
                but=session_id if scope == LogoutScope.OTHERS else None,
            )
            ended = revocation.session_ids if revocation is not None else []
            if scope != LogoutScope.OTHERS and session_id not in ended:
                raise SessionRevoked  # Somebody else was faster.
            details = {"scope": scope.value, "sessions": str(len(ended))}
            await self._record(tx, AuditType.SIGNED_OUT, user_id, session_id, origin, **details)
        self._revoker.announce(revocation)

    async def _record(
        self, tx: AsyncConnection, kind: AuditType, user_id: UUID, session_id: UUID, origin: Origin, **details: str
    ) -> None:
        await self._audit.record(
            tx, kind, origin=origin, actor_id=user_id, subject_id=user_id, session_id=session_id, **details
        )
