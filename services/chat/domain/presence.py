"""Who is connected to which room, across all processes.

Each process has a lease, which it renews, and writes which of its streams follow which room. Every process that has
followers in a room reads who is there, on a hint and with every heartbeat, and tells its followers what has changed.
A process that dies stops renewing; any other removes it and all that it held (docs/decisions/presence.md).
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from time import monotonic
from uuid import UUID

import structlog

from services.chat.models import Connection
from services.chat.repository.presence import PresenceRows
from services.kit.bus import Bus
from services.kit.database import Database
from services.kit.errors import Unavailable
from services.kit.faults import describe_fault
from services.kit.ids import uuid7

log = structlog.get_logger()

RETRY_SECONDS = 0.5
RETIRE_SECONDS = 2.0

Key = tuple[UUID, UUID]
"""A connection's id and a room's."""


class Change(Enum):
    """How somebody's presence in a room has changed, as one follower sees it."""

    PRESENT = "was there when the follower came"
    JOINED = "opened the first connection"
    LEFT = "closed the last connection"


Tell = Callable[[UUID, UUID, Change], None]
"""Called with a room, a user and a change. It must not block."""


@dataclass(slots=True)
class _Listener:
    user_id: UUID
    tell: Tell
    introduced: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Room:
    unsubscribe: Callable[[], None]
    present: set[UUID] = field(default_factory=set)
    listeners: dict[UUID, _Listener] = field(default_factory=dict)


class Presence:
    """Presence, as one process takes part in it. `enter` and `leave` only note: one task does what there is to do."""

    def __init__(self, db: Database, bus: Bus, *, heartbeat: timedelta, lease: timedelta) -> None:
        self._db = db
        self._bus = bus
        self._heartbeat = heartbeat.total_seconds()
        self._lease = lease
        self._process_id = uuid7()
        self._rooms: dict[UUID, _Room] = {}
        self._here: dict[Key, Connection] = {}
        self._to_insert: dict[Key, Connection] = {}
        self._to_delete: dict[Key, Connection] = {}
        self._to_look: set[UUID] = set()
        self._work = asyncio.Event()
        self._next_beat = 0.0
        self._last_beat: float | None = None
        self._beat_unanswered = False
        self._reap_from = 0.0

    def enter(self, connection: Connection, tell: Tell) -> asyncio.Event:
        """A stream follows a room: tell it who is there, then what changes, all but its own user.

        The event that is returned is set once it has been told who is there: who comes after that, joins. Entering
        again starts over with who is there.
        """
        room_id, key = connection.room_id, (connection.id, connection.room_id)
        if room_id not in self._rooms:
            self._rooms[room_id] = _Room(self._bus.subscribe(_topic(room_id), lambda _: self._look_soon([room_id])))
        listener = self._rooms[room_id].listeners[connection.id] = _Listener(connection.user_id, tell)
        if key not in self._here:
            self._here[key] = connection
            if self._to_delete.pop(key, None) is None:
                self._to_insert[key] = connection
        self._look_soon([room_id])
        return listener.introduced

    def leave(self, connection_id: UUID, room_id: UUID) -> None:
        """A stream follows a room no longer. Without effect if it did not."""
        key = (connection_id, room_id)
        connection = self._here.pop(key, None)
        if connection is None:
            return
        if self._to_insert.pop(key, None) is None:
            self._to_delete[key] = connection
        room = self._rooms[room_id]
        del room.listeners[connection_id]
        if not room.listeners:
            room.unsubscribe()
            del self._rooms[room_id]
        self._work.set()

    async def run_for_ever(self) -> None:
        """Renew the lease, write who came and went, read who is there."""
        reachable = True
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._next_beat - monotonic())):
                    await self._work.wait()
            self._work.clear()
            try:
                await self._round()
                reachable = True
            except Unavailable:
                if reachable:
                    log.warning("presence waits for the database")
                reachable = False
                await self._retry_soon()
            except Exception as error:  # noqa: BLE001  # presence must go on for all the others
                log.warning("presence failed, trying again", fault=describe_fault(error))
                self._next_beat = 0.0
                await self._retry_soon()

    async def retire(self) -> None:
        """This process is about to end: what it holds is gone, and whoever should know is told."""
        try:
            async with asyncio.timeout(RETIRE_SECONDS), self._db.read() as tx:
                rooms = await PresenceRows(tx).retire(self._process_id)
        except (Unavailable, TimeoutError):
            log.warning("presence could not be ended: the lease runs out instead")
            return
        hint_changed(self._bus, rooms)

    async def _retry_soon(self) -> None:
        self._work.set()
        await asyncio.sleep(RETRY_SECONDS)

    async def _round(self) -> None:
        if monotonic() >= self._next_beat:
            await self._beat()
        await self._write()
        await self._look()

    async def _beat(self) -> None:
        async with self._db.read() as tx:
            rows = PresenceRows(tx)
            # A renewal without an answer may have been the one that found the lease lost, and no later one tells.
            maybe_lost, self._beat_unanswered = self._beat_unanswered, True
            lost = await rows.renew(self._process_id, self._lease) or maybe_lost
            self._beat_unanswered = False
            now = monotonic()
            if self._last_beat is not None and (lost or now - self._last_beat > self._lease.total_seconds()):
                # The database was away, for others too. Give them the time to come back before calling them dead.
                self._reap_from = now + self._lease.total_seconds()
            if lost:
                self._to_insert = dict(self._here)
            self._last_beat, self._next_beat = now, now + self._heartbeat
            if now >= self._reap_from:
                hint_changed(self._bus, await rows.reap())
        self._to_look.update(self._rooms)

    async def _write(self) -> None:
        if not self._to_insert and not self._to_delete:
            return
        inserts, self._to_insert = self._to_insert, {}
        deletes, self._to_delete = self._to_delete, {}
        try:
            async with self._db.transaction() as tx:
                rows = PresenceRows(tx)
                if inserts:
                    await rows.insert(self._process_id, list(inserts.values()))
                if deletes:
                    await rows.delete(list(deletes.values()))
        except BaseException:
            self._to_insert |= {key: value for key, value in inserts.items() if key in self._here}
            self._to_delete |= {key: value for key, value in deletes.items() if key not in self._here}
            raise
        hint_changed(self._bus, {key[1] for key in (*inserts, *deletes)})

    async def _look(self) -> None:
        looked_at, self._to_look = self._to_look & self._rooms.keys(), set()
        if not looked_at:
            return
        try:
            async with self._db.read() as tx:
                pairs = await PresenceRows(tx).present(list(looked_at))
        except BaseException:
            self._to_look |= looked_at
            raise
        present: dict[UUID, set[UUID]] = {room_id: set() for room_id in looked_at}
        for room_id, user_id in pairs:
            present[room_id].add(user_id)
        for room_id, users in present.items():
            if room := self._rooms.get(room_id):
                _tell_changes(room_id, room, users)

    def _look_soon(self, room_ids: Iterable[UUID]) -> None:
        self._to_look.update(room_ids)
        self._work.set()


def hint_changed(bus: Bus, room_ids: Iterable[UUID]) -> None:
    """Say to all processes that who is connected to these rooms has changed."""
    for room_id in room_ids:
        bus.hint(_topic(room_id), 0)


def _tell_changes(room_id: UUID, room: _Room, users: set[UUID]) -> None:
    joined, left = users - room.present, room.present - users
    room.present = users
    for listener in room.listeners.values():
        if listener.introduced.is_set():
            told = [(user, Change.JOINED) for user in joined] + [(user, Change.LEFT) for user in left]
        else:
            told = [(user, Change.PRESENT) for user in users]
            listener.introduced.set()
        for user_id, change in told:
            if user_id != listener.user_id:
                listener.tell(room_id, user_id, change)


def _topic(room_id: UUID) -> str:
    return f"presence:{room_id}"
