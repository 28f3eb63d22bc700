"""A user who is removed for good: nothing of it is left in chat, and rooms go on for those who are still there."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from sqlalchemy import text

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.domain import purge as domain
from services.chat.models import Connection, Member
from services.chat.repository.presence import PresenceRows
from services.chat.repository.purge import PurgeRows
from services.chat.repository.rooms import RoomRows
from services.chat.wiring import open_chat_jobs
from services.kit.database import Database
from services.kit.ids import utc_now, uuid7
from services.kit.settings import DatabaseSettings
from tests.chat.conftest import Chat, StartChat, eventually, store_messages
from tests.support import raises_status, reason_of, status_of

Purge = Callable[[str], Coroutine[Any, Any, None]]
TABLES = ("rooms", "members", "messages", "connections")


@pytest.fixture
def purge(settings: Any, as_user: Any) -> Purge:
    """Does chat's step for a user, as the worker would."""

    async def purge(name: str) -> None:
        async with open_chat_jobs(settings(DatabaseSettings)) as jobs:
            (job,) = jobs
            await job.run(user_id=str(as_user.id(name)))

    return purge


async def count(database: Database, table: str, user_id: UUID | None = None) -> int:
    statement = f"SELECT count(*) FROM chat.{table}" + (" WHERE user_id = :user_id" if user_id else "")
    async with database.read() as tx:
        return int((await tx.execute(text(statement), {"user_id": user_id} if user_id else {})).scalar_one())


async def left_of(database: Database, user_id: UUID) -> dict[str, int]:
    return {table: await count(database, table, user_id) for table in TABLES}


NOTHING = dict.fromkeys(TABLES, 0)


async def room_row(database: Database, room_id: str) -> Any:
    statement = "SELECT user_id, member_count, last_sequence, request_id FROM chat.rooms WHERE id = :id"
    async with database.read() as tx:
        return (await tx.execute(text(statement), {"id": UUID(room_id)})).one()


async def test_rooms_where_nobody_else_is_go_with_all_that_was_said_in_them(
    chat: Chat, as_user: Any, database: Database, purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "ROOMS_AT_A_TIME", 2)
    monkeypatch.setattr(domain, "MESSAGES_AT_A_TIME", 3)
    ann, bob = as_user("ann"), as_user("bob")
    rooms = [await chat.room_of(ann, bob) for _ in range(3)]
    for room in rooms:
        for n in range(4):
            await chat.send(room, bob, f"bob {n}")
            await chat.send(room, ann, f"ann {n}")
        await chat.leave(room, bob)
    await chat.leave(rooms[0], ann)  # Nobody is there, and it is ann's.
    async with database.transaction() as tx:  # A process that has not heard yet that bob has left.
        await PresenceRows(tx).renew(process := uuid7(), timedelta(minutes=1))
        await PresenceRows(tx).insert(process, [Connection(uuid7(), UUID(rooms[0]), as_user.id("bob"))])
    await purge("ann")
    assert {table: await count(database, table) for table in TABLES} == NOTHING
    with raises_status(grpc.StatusCode.NOT_FOUND, "ROOM_NOT_FOUND"):
        await chat.join(rooms[1], bob)
    await purge("ann")


async def test_a_room_with_others_passes_to_who_has_been_there_the_longest(
    chat: Chat, as_user: Any, database: Database, purge: Purge
) -> None:
    ann, bob, cyd = as_user("ann"), as_user("bob"), as_user("cyd")
    room = await chat.create_room(ann, request_id=str(UUID(int=1)))
    await chat.join(room, cyd, bob)
    foreign = await chat.room_of(bob, ann)
    await chat.send(room, ann, "1")
    await chat.send(room, bob, "1")
    await purge("ann")
    assert await left_of(database, as_user.id("ann")) == NOTHING
    assert tuple(await room_row(database, room)) == (as_user.id("cyd"), 2, 2, None)
    assert tuple(await room_row(database, foreign)) == (as_user.id("bob"), 1, 0, None)
    assert [message.sequence for message in await chat.messages(room, bob)] == [2]
    assert (await chat.send(room, cyd, "1")).sequence == 3


async def test_what_was_said_elsewhere_goes_as_well(chat: Chat, as_user: Any, database: Database, purge: Purge) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(bob, ann)
    await chat.send(room, ann, "1")
    await chat.leave(room, ann)
    await purge("ann")
    assert await count(database, "messages") == 0
    assert tuple(await room_row(database, room)) == (as_user.id("bob"), 1, 1, None)


async def test_followers_get_gaps_for_what_is_gone_and_go_on(chat: Chat, as_user: Any, purge: Purge) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    for who, name in ((ann, "1"), (ann, "2"), (bob, "3"), (ann, "4"), (bob, "5"), (ann, "6")):
        await chat.send(room, who, name)
    async with chat.connect(bob, (room, 0)) as live:
        assert live.sequences == [1, 2, 3, 4, 5, 6]
        await purge("ann")
        watch: Any = chat.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=bob)
        told: list[Any] = []
        async with asyncio.timeout(10):
            while not told or told[-1] != "caught up":
                response = await watch.read()
                told += [event.sequence for event in response.events]
                if response.HasField("gap"):
                    told.append((response.gap.first_sequence, response.gap.last_sequence))
                if response.HasField("caught_up"):
                    assert response.caught_up.sequence == 6
                    told.append("caught up")
        # The newest of all is gone, too: who catches up must hear of it, or it would wait for it.
        assert told == [(1, 2), 3, (4, 4), 5, (6, 6), "caught up"]
        await chat.send(room, bob, "7")
        assert [event.sequence for event in (await watch.read()).events] == [7]
        assert await live.until(7) == [1, 2, 3, 4, 5, 6, 7]
        watch.cancel()


async def test_a_message_that_is_gone_before_a_live_follower_had_it_is_a_gap(
    chat: Chat, as_user: Any, database: Database
) -> None:
    bob = as_user("bob")
    room = await chat.room_of(bob, as_user("ann"))
    async with chat.connect(bob, (room, 0)) as live:
        # As when its hint was lost and the purge was quicker than the next look.
        await store_messages(database, room, as_user.id("ann"), 2)
        async with database.transaction() as tx:
            await PurgeRows(tx).delete_messages_of(as_user.id("ann"), 10)
        gap = await live.notice("gap")
        assert (gap.first_sequence, gap.last_sequence) == (1, 2)
        await chat.send(room, bob, "3")
        assert await live.until(3) == [3]


async def test_streams_of_the_user_end_and_others_see_it_leave(
    start_chat: StartChat, as_user: Any, database: Database, purge: Purge
) -> None:
    # Neither a look nor a heartbeat comes in time: hints have to do it.
    chat = await start_chat(chat_membership_seconds=600, chat_heartbeat_seconds=600, chat_lease_seconds=1200)
    ann, bob = as_user("ann"), as_user("bob")
    room, alone = await chat.room_of(bob, ann), await chat.create_room(ann)
    async with chat.connect(bob, (room, 0)) as other, chat.connect(ann, (room, 0), (alone, 0)) as stream:
        await other.notice("presence", change=pb2.Presence.CHANGE_JOINED)
        await purge("ann")
        left = await other.notice("presence")
        assert (left.user_id, left.change) == (str(as_user.id("ann")), pb2.Presence.CHANGE_LEFT)
        assert {(await stream.notice("unsubscribed")).room_id for _ in range(2)} == {room, alone}

        async def gone() -> bool:
            return await left_of(database, as_user.id("ann")) == NOTHING

        await eventually(gone)


async def test_who_joins_while_the_last_member_is_removed_has_the_room_or_finds_none(
    chat: Chat, as_user: Any, database: Database, purge: Purge
) -> None:
    people = [as_user(f"joiner-{n}") for n in range(12)]
    rooms = [await chat.create_room(as_user("ann")) for _ in people]

    async def join(room: str, who: Any) -> bool:
        try:
            await chat.join(room, who)
        except grpc.aio.AioRpcError as error:
            if reason_of(status_of(error)) != "ROOM_NOT_FOUND":
                raise
            return False
        return True

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(purge("ann"))
        joining = [tasks.create_task(join(room, who)) for room, who in zip(rooms, people, strict=True)]
    joined = [task.result() for task in joining]
    assert await left_of(database, as_user.id("ann")) == NOTHING
    assert await count(database, "rooms") == sum(joined)
    for room, is_in, n in zip(rooms, joined, range(12), strict=True):
        if is_in:
            assert tuple(await room_row(database, room))[:2] == (as_user.id(f"joiner-{n}"), 1)


async def test_who_joins_a_room_in_the_moment_of_its_removal_finds_none(
    chat: Chat, as_user: Any, database: Database
) -> None:
    room = await chat.create_room(as_user("ann"))
    async with database.transaction() as tx:
        await PurgeRows(tx).lock_room(UUID(room))
        joining = asyncio.create_task(chat.join(room, as_user("bob")))
        await eventually(lambda: somebody_waits(database))
        await PurgeRows(tx).delete_room(UUID(room))
    with raises_status(grpc.StatusCode.NOT_FOUND, "ROOM_NOT_FOUND"):
        await joining


async def test_a_room_that_somebody_is_just_joining_stays(
    chat: Chat, as_user: Any, database: Database, purge: Purge
) -> None:
    room = await chat.create_room(as_user("ann"))
    bob = as_user.id("bob")
    async with database.transaction() as tx:
        await RoomRows(tx).add_member(Member(uuid7(), UUID(room), bob, utc_now()))
        purging = asyncio.create_task(purge("ann"))
        await eventually(lambda: somebody_waits(database))
    await purging
    assert tuple(await room_row(database, room))[:2] == (bob, 1)


async def somebody_waits(database: Database) -> bool:
    """Whether a statement waits for the lock of another."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with database.read() as tx:
        return bool((await tx.execute(text(waiting))).scalar_one())


async def test_all_members_of_a_room_can_be_removed_at_once(
    chat: Chat, as_user: Any, database: Database, purge: Purge
) -> None:
    names = ["ann", "bob", "cyd"]
    rooms = [await chat.room_of(*map(as_user, names)) for _ in range(4)]
    for room in rooms:
        for name in names:
            await chat.send(room, as_user(name), "hi")
    await asyncio.gather(*map(purge, names), *map(purge, names))
    assert {table: await count(database, table) for table in TABLES} == NOTHING


async def test_a_purge_that_is_broken_off_anywhere_is_finished_by_the_next(
    chat: Chat, as_user: Any, database: Database, purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "MESSAGES_AT_A_TIME", 2)
    ann, bob = as_user("ann"), as_user("bob")
    for _ in range(2):
        alone, shared = await chat.create_room(ann), await chat.room_of(ann, bob)
        for n in range(3):
            await chat.send(alone, ann, str(n))
            await chat.send(shared, ann, str(n))
    broken_off = steps = 0
    for name in ("lock_room", "pass_room", "delete_messages_in", "delete_room", "delete_messages_of"):
        whole = getattr(PurgeRows, name)

        async def half(self: PurgeRows, *args: Any, whole: Any = whole, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            await whole(self, *args, **kwargs)
            raise ConnectionError("killed")

        with monkeypatch.context() as killing:
            killing.setattr(PurgeRows, name, half)
            with pytest.raises(ConnectionError):
                await purge("ann")
            broken_off += 1
    assert steps == broken_off == 5
    await purge("ann")
    assert await left_of(database, as_user.id("ann")) == NOTHING
    assert await count(database, "rooms") == 2
