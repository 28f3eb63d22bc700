"""One Connect stream: what its client wants, done one after the other, and what it is told, in an outbox."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.chat.domain.following import Following
from services.chat.domain.messages import Messages
from services.chat.domain.notices import (
    Ack,
    GoAway,
    Hello,
    Intent,
    Nack,
    Ping,
    Pong,
    PresenceChanged,
    Reauthenticated,
    Send,
    Subscribe,
    Subscribed,
    TokenExpiring,
    Unsubscribe,
    Unsubscribed,
    Welcome,
)
from services.chat.domain.outbox import Outbox
from services.chat.domain.presence import Change, Presence
from services.chat.domain.subscription import Sending, Subscription
from services.chat.errors import HelloExpected, TooManySubscriptions
from services.chat.models import Connection
from services.kit.errors import DomainError
from services.kit.ids import uuid7

INTRODUCTION_SECONDS = 2.0


@dataclass(frozen=True)
class Conversations:
    """What every Connect stream of the process shares."""

    messages: Messages
    following: Following
    presence: Presence
    max_subscriptions: int

    def begin(self, user_id: UUID, tasks: asyncio.TaskGroup) -> "Conversation":
        """A stream of the user's. Its tasks run in the group that is given; `close` ends them."""
        return Conversation(self, user_id, tasks)


class Conversation:
    """What one stream follows and says. Who begins it closes it."""

    def __init__(self, shared: Conversations, user_id: UUID, tasks: asyncio.TaskGroup) -> None:
        self.outbox = Outbox()
        self._shared = shared
        self._user_id = user_id
        self._tasks = tasks
        self._id = uuid7()
        self._open = False
        self._sending = Sending()
        self._subscriptions: dict[UUID, tuple[Subscription, asyncio.Task[None]]] = {}
        self._present_in: set[UUID] = set()  # also while a room is between two subscriptions
        self._presence: dict[tuple[UUID, UUID], Change] = {}
        self._presence_changed = asyncio.Event()
        self._telling = asyncio.Lock()
        self._teller: asyncio.Task[None] | None = None

    async def handle(self, intent: Intent | None) -> None:
        """Do what the client wants; what cannot be done is answered with a nack.

        Raises HelloExpected when the first is no hello; None stands for a client that ends without a word, or says
        something that is not for the conversation.
        """
        if not self._open:
            if not isinstance(intent, Hello):
                raise HelloExpected
            await self._welcome(intent)
            return
        match intent:
            case Hello() | None:
                await self.refuse(HelloExpected())
            case Subscribe(room_id, after):
                await self._subscribe(room_id, after)
            case Unsubscribe(room_id):
                await self._unsubscribe(room_id)
            case Send():
                await self._send(intent)
            case Ping(nonce):
                await self.outbox.put(Pong(nonce))

    async def refuse(self, reason: DomainError, *, room_id: str = "", client_message_id: str = "") -> None:
        """Answer something that cannot be done."""
        await self.outbox.put(Nack(room_id, client_message_id, reason))

    async def go_away(self, reconnect_after: timedelta) -> None:
        """Ask the client to connect elsewhere."""
        await self.outbox.put(GoAway(reconnect_after))

    async def warn_token_expiring(self, expire_time: datetime) -> None:
        """Ask the client for a newer access token."""
        await self.outbox.put(TokenExpiring(expire_time))

    async def confirm_reauthenticated(self, expire_time: datetime) -> None:
        """Tell the client that its newer access token is taken."""
        await self.outbox.put(Reauthenticated(expire_time))

    async def finish(self, seconds: float) -> None:
        """Return once every message that the client has sent is answered, or after so long.

        An ack whose place does not come in time is not given: without it the client sends the message again, elsewhere,
        and gets it then.
        """
        try:
            async with asyncio.timeout(seconds):
                for subscription, _ in list(self._subscriptions.values()):
                    await subscription.wait_acknowledged()
        except TimeoutError:
            return

    def close(self) -> None:
        """Follow nothing more, and be present nowhere."""
        for subscription, task in self._subscriptions.values():
            task.cancel()
            subscription.followed.close()
        self._subscriptions.clear()
        for room_id in tuple(self._present_in):
            self._leave(room_id)
        if self._teller is not None:
            self._teller.cancel()

    async def _welcome(self, hello: Hello) -> None:
        self._open = True
        self._teller = self._tasks.create_task(self._tell_presence())
        await self.outbox.put(Welcome(self._id, self._user_id, self._shared.max_subscriptions))
        for cursor in hello.cursors:
            await self._subscribe(cursor.room_id, cursor.after)

    async def _subscribe(self, room_id: UUID, after: int) -> None:
        try:
            if room_id not in self._subscriptions and len(self._subscriptions) >= self._shared.max_subscriptions:
                raise TooManySubscriptions  # a nack, as for what following raises
            followed = await self._shared.following.watch_room(self._user_id, room_id, after)
        except DomainError as reason:
            await self.refuse(reason, room_id=str(room_id))
            return
        subscription = Subscription(followed, self.outbox, self._sending)
        try:
            await self._end(room_id)
            await self.outbox.put(Subscribed(followed.room, after))
        except BaseException:
            followed.close()
            raise
        self._present_in.add(room_id)
        introduced = self._shared.presence.enter(Connection(self._id, room_id, self._user_id), self._note_presence)
        self._subscriptions[room_id] = subscription, self._tasks.create_task(self._carry(subscription, introduced))

    async def _unsubscribe(self, room_id: UUID) -> None:
        await self._end(room_id)
        self._leave(room_id)
        await self.outbox.put(Unsubscribed(room_id))

    async def _send(self, send: Send) -> None:
        self._sending.begin(send.room_id, send.client_message_id)
        try:
            message = await self._shared.messages.send_message(
                self._user_id, send.room_id, send.client_message_id, send.text, send.file_ids
            )
            if found := self._subscriptions.get(send.room_id):
                await found[0].acknowledge(message)
            else:
                await self.outbox.put(Ack(message))
        except DomainError as reason:
            await self.refuse(reason, room_id=str(send.room_id), client_message_id=send.client_message_id)
        finally:
            self._sending.settle()

    async def _carry(self, subscription: Subscription, introduced: asyncio.Event) -> None:
        async def introduce() -> None:
            with suppress(TimeoutError):  # Messages do not wait for presence for long.
                async with asyncio.timeout(INTRODUCTION_SECONDS):
                    await introduced.wait()
            await self._tell_changes()

        try:
            await subscription.run(introduce)
        except DomainError as reason:
            self._subscriptions.pop(subscription.room_id, None)
            subscription.followed.close()
            self._leave(subscription.room_id)
            await subscription.give_up_order()
            await self.outbox.put(Unsubscribed(subscription.room_id, reason))

    async def _end(self, room_id: UUID) -> None:
        """Stop carrying a room, if it is carried. Presence in it stays as it is."""
        found = self._subscriptions.pop(room_id, None)
        if found is None:
            return
        subscription, task = found
        task.cancel()
        subscription.followed.close()
        await asyncio.wait((task,))
        await subscription.give_up_order()

    def _leave(self, room_id: UUID) -> None:
        self._present_in.discard(room_id)
        self._shared.presence.leave(self._id, room_id)

    def _note_presence(self, room_id: UUID, user_id: UUID, change: Change) -> None:
        key = room_id, user_id
        before = self._presence.get(key)
        if before is not None and (before is Change.LEFT) != (change is Change.LEFT):
            del self._presence[key]  # The client has heard of neither.
        else:
            self._presence[key] = change
        self._presence_changed.set()

    async def _tell_presence(self) -> None:
        while True:
            await self._presence_changed.wait()
            self._presence_changed.clear()
            await self._tell_changes()

    async def _tell_changes(self) -> None:
        async with self._telling:  # One at a time, so that they stay in order.
            changes, self._presence = self._presence, {}
            for (room_id, user_id), change in changes.items():
                if room_id in self._subscriptions:
                    await self.outbox.put(PresenceChanged(room_id, user_id, change))
