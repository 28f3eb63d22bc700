"""Whether the session that a call is made with lives: an access token outlives it by minutes."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.errors import UserNotFound
from services.auth.models.users import User, UserState
from services.auth.repository.users import Users
from services.kit.errors import SessionRevoked


async def require_live_session(tx: AsyncConnection, caller_user_id: UUID, session_id: UUID, now: datetime) -> User:
    """The user of a session, in one statement. Raises SessionRevoked, and UserNotFound for one who is gone.

    A session lives if it is this user's, has not ended or expired, and its user is active.
    """
    user, is_live = await Users(tx).with_session(caller_user_id, session_id, now)
    if user is None:
        raise UserNotFound
    if not is_live or user.state != UserState.ACTIVE:
        raise SessionRevoked
    return user
