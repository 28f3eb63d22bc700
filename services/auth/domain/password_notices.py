"""Telling a user by mail that its password was changed."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain.throttle import Throttle, ThrottleKind
from services.auth.jobs import SEND_PASSWORD_NOTICE
from services.kit.jobs import JobQueue, only_one


class PasswordNotices:
    """Enqueues the notices. The address may be somebody else's as long as nobody has verified it."""

    def __init__(self, throttle: Throttle, jobs: JobQueue) -> None:
        self._throttle = throttle
        self._jobs = jobs

    async def enqueue(self, tx: AsyncConnection, user_id: UUID, change_time: datetime) -> None:
        """Have a user told, in the caller's transaction.

        Soon after another notice it waits for up to five minutes, and stands for further changes meanwhile: none
        is kept from the user, and the changes of whoever makes many do not fill a mailbox.
        """
        await self._jobs.enqueue(
            tx,
            SEND_PASSWORD_NOTICE,
            once=only_one(SEND_PASSWORD_NOTICE, user_id=user_id),
            after=await self._throttle.put_off(tx, ThrottleKind.PASSWORD_NOTICE, account=str(user_id)),
            user_id=str(user_id),
            change_time=change_time.isoformat(timespec="seconds"),
        )
