"""The access token of one Connect stream: its client is told in time that it expires, and may send a newer one.

What the token says is the kit's business, and the kit ends the stream when it has expired or its session is revoked.
Here is only what the client hears of it.
"""

import asyncio
import time
from datetime import UTC, datetime

from services.chat.domain.conversation import Conversation
from services.kit.calls import Call
from services.kit.errors import DomainError

NOTICE_SECONDS = 60.0
NOTICE_SHARE = 0.8


class Renewal:
    """Tells the client once for each token, and takes the next."""

    def __init__(self, call: Call, conversation: Conversation) -> None:
        self._call = call
        self._conversation = conversation
        self._renewed = asyncio.Event()
        self._reminding: asyncio.Task[None] | None = None

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Remind the client, in a task of this group, until `close`."""
        self._reminding = tasks.create_task(self._remind_for_ever())

    def close(self) -> None:
        """Remind no more."""
        if self._reminding is not None:
            self._reminding.cancel()

    async def reauthenticate(self, token: str) -> None:
        """Go on with this token; if that cannot be, tell why and go on with the one before."""
        try:
            caller = await self._call.reauthenticate(token)
        except DomainError as reason:
            await self._conversation.refuse(reason)
            return
        self._renewed.set()
        await self._conversation.confirm_reauthenticated(_moment(caller.expires_at))

    async def _remind_for_ever(self) -> None:
        while True:
            self._renewed.clear()
            expires_at = self._call.caller.expires_at
            left = expires_at - time.time()
            try:
                async with asyncio.timeout(left - notice_of(left)):
                    await self._renewed.wait()
            except TimeoutError:
                await self._conversation.warn_token_expiring(_moment(expires_at))
                await self._renewed.wait()


def notice_of(left: float) -> float:
    """How long before its expiry to tell of a token that is good for so many seconds more."""
    return min(NOTICE_SECONDS, left * NOTICE_SHARE)


def _moment(unix_seconds: int) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC)
