"""Whether those who follow a room are still members of it: looked at again on a hint, and every few seconds."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from services.chat.repository.rooms import RoomRows
from services.kit.bus import Bus
from services.kit.database import Database
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault

log = structlog.get_logger()

PAIRS_PER_LOOK = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class _Watch:
    room_id: UUID
    user_id: UUID
    member_id: UUID
    on_end: Callable[[], None]


class Memberships:
    """Ends what goes on in rooms on behalf of users who have left them, in whatever process they left."""

    def __init__(self, db: Database, bus: Bus, *, interval: timedelta) -> None:
        self._db = db
        self._bus = bus
        self._interval = interval.total_seconds()
        self._watches: dict[UUID, set[_Watch]] = {}
        self._unsubscribe: dict[UUID, Callable[[], None]] = {}
        self._to_check: set[UUID] = set()
        self._hinted = asyncio.Event()

    def hint(self, room_id: UUID) -> None:
        """Say that somebody's membership of the room has ended."""
        hint_ended(self._bus, room_id)

    def watch(self, room_id: UUID, user_id: UUID, member_id: UUID, on_end: Callable[[], None]) -> Callable[[], None]:
        """Call `on_end` once when this membership has ended, until the function that is returned is called."""
        watch = _Watch(room_id, user_id, member_id, on_end)
        if room_id not in self._watches:
            self._watches[room_id] = set()
            self._unsubscribe[room_id] = self._bus.subscribe(_topic(room_id), lambda _: self._check_soon(room_id))
        self._watches[room_id].add(watch)
        return lambda: self._forget(watch)

    async def check_for_ever(self) -> None:
        """Look whether the memberships are still there."""
        while True:
            rooms = await self._next_rooms()
            watches = [watch for room_id in rooms for watch in self._watches.get(room_id, ())]
            try:
                for start in range(0, len(watches), PAIRS_PER_LOOK):
                    await self._check(watches[start : start + PAIRS_PER_LOOK])
            except Unavailable:
                pass  # The next look makes up for this one.
            except Exception as error:  # noqa: BLE001  # it must go on for all the others
                log.warning("memberships cannot be checked", fault=describe_fault(error))

    async def _next_rooms(self) -> Sequence[UUID]:
        """The rooms that a hint named, or, when none came for a while, all."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                await self._hinted.wait()
        self._hinted.clear()
        rooms, self._to_check = self._to_check, set()
        return list(rooms or self._watches)

    async def _check(self, watches: Sequence[_Watch]) -> None:
        pairs = list({(watch.room_id, watch.user_id) for watch in watches})
        async with self._db.read() as tx:
            there = {member.id for member in await RoomRows(tx).memberships(pairs)}
        for watch in watches:
            if watch.member_id not in there:
                self._forget(watch)
                watch.on_end()

    def _check_soon(self, room_id: UUID) -> None:
        self._to_check.add(room_id)
        self._hinted.set()

    def _forget(self, watch: _Watch) -> None:
        watches = self._watches.get(watch.room_id, set())
        watches.discard(watch)
        if not watches and watch.room_id in self._watches:
            del self._watches[watch.room_id]
            self._unsubscribe.pop(watch.room_id)()


def hint_ended(bus: Bus, room_id: UUID) -> None:
    """Say to all processes that somebody's membership of the room has ended."""
    bus.hint(_topic(room_id), 0)


def _topic(room_id: UUID) -> str:
    return f"members:{room_id}"
