"""One room on one stream: its events in order, with the acks of this stream's own messages in their place."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from services.chat.domain.following import FollowedRoom
from services.chat.domain.notices import Ack, Events, RoomCaughtUp, RoomGap
from services.chat.domain.outbox import Outbox
from services.chat.models import Event, Message


class Sending:
    """The message that a stream is storing at the moment, if any; a stream stores one at a time."""

    def __init__(self) -> None:
        self.name: tuple[UUID, str] | None = None
        self._settled = asyncio.Event()
        self._settled.set()

    def begin(self, room_id: UUID, client_message_id: str) -> None:
        """A message is about to be stored."""
        self.name = room_id, client_message_id
        self._settled.clear()

    def settle(self) -> None:
        """It is known what became of it."""
        self.name = None
        self._settled.set()

    async def wait_settled(self) -> None:
        """Return once nothing is being stored."""
        await self._settled.wait()


class Subscription:
    """Carries a followed room into a stream's outbox.

    The position of a client in a room is the last sequence that it was given, be it by an event or an ack. So the ack
    of a message takes the place of its event: given earlier, it would step over the events before it.
    """

    def __init__(self, followed: FollowedRoom, outbox: Outbox, sending: Sending) -> None:
        self.room_id = followed.room.id
        self.followed = followed
        self._position = followed.after
        self._outbox = outbox
        self._sending = sending
        self._acks: dict[int, Ack] = {}
        self._no_acks_wait = asyncio.Event()
        self._no_acks_wait.set()

    async def run(self, introduce: Callable[[], Awaitable[None]]) -> None:
        """Carry until cancelled; before the client is told that it has caught up, `introduce` it to who is there.

        Raises NotAMember when the membership ends.
        """
        async for notice in self.followed:
            if isinstance(notice, Events):
                await self._carry(notice.events)
                continue
            if isinstance(notice, RoomCaughtUp):
                await introduce()
            await self._outbox.put(notice)
            if isinstance(notice, RoomGap):
                await self._advance(notice.last)

    async def acknowledge(self, message: Message) -> None:
        """Give the ack of a message of this stream's, in its place if that is still to come."""
        if message.sequence > self._position:
            self._acks[message.sequence] = Ack(message)
            self._no_acks_wait.clear()
        else:
            await self._outbox.put(Ack(message))

    async def wait_acknowledged(self) -> None:
        """Return once no ack waits for its place."""
        await self._no_acks_wait.wait()

    async def give_up_order(self) -> None:
        """Give the acks that wait, as their places no longer come."""
        acks, self._acks = self._acks, {}
        self._no_acks_wait.set()
        for ack in acks.values():
            await self._outbox.put(ack)

    async def _carry(self, events: Sequence[Event]) -> None:
        if not self._acks and self._sending.name is None:
            await self._outbox.put(Events(events))
            await self._advance(events[-1].position)
            return
        others: list[Event] = []
        for event in events:
            message = event.message
            if self._sending.name == (message.room_id, message.client_message_id):
                # It may be the message that is being stored, or an earlier one of its name: soon it is known.
                others = await self._put(others)
                await self._sending.wait_settled()
            if event.position in self._acks:
                others = await self._put(others)
                await self._advance(event.position)
            else:
                others.append(event)
        await self._put(others)
        await self._advance(events[-1].position)

    async def _put(self, events: list[Event]) -> list[Event]:
        if events:
            await self._outbox.put(Events(events))
            self._position = events[-1].position
        return []

    async def _advance(self, position: int) -> None:
        """The client has everything up to here, and gets the acks that had to wait for that."""
        self._position = position
        for sequence in sorted(sequence for sequence in self._acks if sequence <= position):
            await self._outbox.put(self._acks.pop(sequence))
        if not self._acks:
            self._no_acks_wait.set()
