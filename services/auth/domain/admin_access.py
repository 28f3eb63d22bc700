"""Whether a caller is an administrator now: an access token says what was so minutes ago."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.actor import Actor
from services.auth.domain.live_sessions import require_live_session
from services.auth.errors import UserNotFound
from services.kit.errors import AccessDenied, SessionRevoked


async def require_admin(tx: AsyncConnection, actor: Actor, now: datetime) -> None:
    """Raises SessionRevoked when the actor's session has ended, and AccessDenied when it is no administrator."""
    if actor.actor_id is None or actor.session_id is None:
        raise AccessDenied
    try:
        user = await require_live_session(tx, actor.actor_id, actor.session_id, now)
    except UserNotFound as gone:
        raise SessionRevoked from gone
    if not user.is_admin:
        raise AccessDenied
