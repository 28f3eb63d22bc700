"""Presence: who is connected to a room, whichever server and however the connection ends."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from sqlalchemy import text

from parley.chat.v1 import chat_service_pb2 as pb2
from services.kit.errors import Unavailable
from tests.chat.conftest import database_away, eventually

JOINED, LEFT = pb2.Presence.CHANGE_JOINED, pb2.Presence.CHANGE_LEFT


@pytest.fixture
async def servers(start_chat: Any) -> list[Any]:
    return [await start_chat(), await start_chat()]


async def test_coming_and_going_is_told_across_servers_and_who_comes_is_told_who_is_there(
    servers: list[Any], as_user: Any
) -> None:
    here, there = servers
    ann, bob = as_user("ann"), as_user("bob")
    room = await here.room_of(ann, bob)
    async with here.connect(ann, (room, 0)) as stream:
        assert stream.present == []
        async with there.connect(bob, (room, 0)) as other:
            joined = await stream.notice("presence")
            assert (joined.room_id, joined.user_id, joined.change) == (room, str(as_user.id("bob")), JOINED)
            assert other.present == [str(as_user.id("ann"))]
        left = await stream.notice("presence")
        assert (left.room_id, left.user_id, left.change) == (room, str(as_user.id("bob")), LEFT)


async def test_only_the_first_connection_joins_and_only_the_last_one_leaves(servers: list[Any], as_user: Any) -> None:
    here, there = servers
    ann, bob, cyd = as_user("ann"), as_user("bob"), as_user("cyd")
    room = await here.room_of(ann, bob, cyd)
    told: list[tuple[str, int]] = []
    async with here.connect(ann, (room, 0)) as stream:
        async with here.connect(bob, (room, 0)):
            told.append(change_of(await stream.notice("presence")))
            async with there.connect(bob, (room, 0)):
                pass
            # Had the second connection counted, it would be told before this one.
            async with there.connect(cyd, (room, 0)):
                told.append(change_of(await stream.notice("presence")))
            told.append(change_of(await stream.notice("presence")))
        told.append(change_of(await stream.notice("presence")))
    bob_id, cyd_id = str(as_user.id("bob")), str(as_user.id("cyd"))
    assert told == [(bob_id, JOINED), (cyd_id, JOINED), (cyd_id, LEFT), (bob_id, LEFT)]


def change_of(presence: pb2.Presence) -> tuple[str, int]:
    return presence.user_id, presence.change


async def test_nobody_is_told_of_his_own_presence(servers: list[Any], as_user: Any) -> None:
    here, there = servers
    ann, bob = as_user("ann"), as_user("bob")
    room = await here.room_of(ann, bob)
    async with here.connect(ann, (room, 0)) as stream:
        async with there.connect(ann, (room, 0)):
            pass
        async with there.connect(bob, (room, 0)):
            assert (await stream.notice("presence")).user_id == str(as_user.id("bob"))


@pytest.mark.parametrize("ending", ["half-close", "unsubscribe", "leave the room", "cut the connection"])
async def test_however_a_connection_ends_the_room_is_told(servers: list[Any], as_user: Any, ending: str) -> None:
    here, there = servers
    ann, bob = as_user("ann"), as_user("bob")
    room = await here.room_of(ann, bob)
    async with here.connect(ann, (room, 0)) as stream, there.connect(bob, (room, 0)) as leaving:
        assert (await stream.notice("presence")).change == JOINED
        match ending:
            case "half-close":
                await leaving.call.done_writing()
            case "unsubscribe":
                await leaving.write(unsubscribe=pb2.ConnectRequest.Unsubscribe(room_id=room))
            case "leave the room":
                await here.leave(room, bob)
            case "cut the connection":
                await there.close()
        assert change_of(await stream.notice("presence")) == (str(as_user.id("bob")), LEFT)


async def test_a_stream_is_present_only_in_rooms_that_it_follows(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room, other = await chat.room_of(ann, bob), await chat.room_of(ann, bob)
    async with chat.connect(ann, (room, 0), (other, 0)) as stream, chat.connect(bob, (other, 0)) as bobs:
        joined = await stream.notice("presence")
        assert (joined.room_id, joined.change) == (other, JOINED)
        await bobs.subscribe(room)
        joined = await stream.notice("presence")
        assert (joined.room_id, joined.change) == (room, JOINED)


async def put_elsewhere(database: Any, room: str, user_id: UUID, lease: str) -> None:
    """A connection that another server holds, as the tables show it; no hint is given."""
    values = {"id": uuid4(), "room": room, "user": user_id, "lease": lease}
    async with database.transaction() as tx:
        await tx.execute(text("INSERT INTO chat.processes VALUES (:id, now() + cast(:lease AS interval))"), values)
        await tx.execute(
            text("INSERT INTO chat.connections (id, room_id, user_id, process_id) VALUES (:id, :room, :user, :id)"),
            values,
        )


async def test_users_of_a_server_that_was_killed_leave_when_its_lease_runs_out(
    start_chat: Any, as_user: Any, database: Any
) -> None:
    chat = await start_chat(chat_heartbeat_seconds=0.3)
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    await put_elsewhere(database, room, as_user.id("bob"), "1 s")  # what a killed server leaves behind
    async with chat.connect(ann, (room, 0)) as stream:
        assert stream.present == [str(as_user.id("bob"))]
        assert change_of(await stream.notice("presence")) == (str(as_user.id("bob")), LEFT)


async def test_presence_is_told_without_hints_too(start_chat: Any, as_user: Any, database: Any) -> None:
    chat = await start_chat(chat_heartbeat_seconds=0.3)
    ann = as_user("ann")
    room = await chat.room_of(ann, as_user("bob"))
    async with chat.connect(ann, (room, 0)) as stream:
        await put_elsewhere(database, room, as_user.id("bob"), "1 h")
        assert change_of(await stream.notice("presence")) == (str(as_user.id("bob")), JOINED)


async def test_a_server_whose_lease_was_taken_comes_back_with_its_users(
    start_chat: Any, as_user: Any, database: Any
) -> None:
    here, there = await start_chat(chat_heartbeat_seconds=0.3), await start_chat(chat_heartbeat_seconds=0.3)
    ann, bob = as_user("ann"), as_user("bob")
    room = await here.room_of(ann, bob)
    async with here.connect(ann, (room, 0)) as stream, there.connect(bob, (room, 0)):
        assert (await stream.notice("presence")).change == JOINED
        async with database.transaction() as tx:
            await tx.execute(text("DELETE FROM chat.processes"))
        # Between the two it may or may not have been seen to be gone; in the end both are there.
        await eventually(lambda: connected(database, 2))
        async with there.connect(as_user("bob"), (room, 0)) as second:
            assert second.present == [str(as_user.id("ann"))]


async def test_nobody_is_taken_for_gone_because_the_database_was(
    start_chat: Any, as_user: Any, database: Any, database_url: str, template: str
) -> None:
    chat = await start_chat(chat_heartbeat_seconds=0.2, chat_lease_seconds=1.0)
    ann, cyd = as_user("ann"), as_user("cyd")
    room = await chat.room_of(ann, as_user("bob"), cyd)
    await put_elsewhere(database, room, as_user.id("bob"), "1 s")
    async with chat.connect(ann, (room, 0)) as stream:
        assert stream.present == [str(as_user.id("bob"))]
        async with database_away(database_url, template):
            await asyncio.sleep(1.5)  # longer than a lease
        await eventually(lambda: leases(database, 1))
        async with database.transaction() as tx:  # The other server comes back a little later than this one.
            await tx.execute(text("UPDATE chat.processes SET expire_time = now() + interval '1 h'"))
        async with chat.connect(cyd, (room, 0)):
            assert change_of(await stream.notice("presence")) == (str(as_user.id("cyd")), JOINED)


async def leases(database: Any, count: int) -> bool:
    try:
        async with database.read() as tx:
            valid = text("SELECT count(*) FROM chat.processes WHERE expire_time > now()")
            return bool((await tx.execute(valid)).scalar_one() == count)
    except Unavailable:
        return False


async def connected(database: Any, count: int) -> bool:
    async with database.read() as tx:
        return bool((await tx.execute(text("SELECT count(*) FROM chat.connections"))).scalar_one() == count)


async def test_nothing_is_left_behind_when_streams_end(start_chat: Any, as_user: Any, database: Any) -> None:
    chat = await start_chat()
    ann = as_user("ann")
    room = await chat.room_of(ann)
    for _ in range(5):
        async with chat.connect(ann, (room, 0)):
            pass
    await eventually(lambda: connected(database, 0))


async def test_a_server_that_stops_takes_its_users_out_of_their_rooms(
    chat: Any, stoppable_chat: Any, as_user: Any
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    stop, other = await stoppable_chat()
    async with chat.connect(ann, (room, 0)) as stream, other.connect(bob, (room, 0)) as leaving:
        assert (await stream.notice("presence")).change == JOINED
        stopping = asyncio.create_task(stop())
        await leaving.notice("go_away")
        assert change_of(await stream.notice("presence")) == (str(as_user.id("bob")), LEFT)
        _, code = await leaving.rest()
        assert code == grpc.StatusCode.UNAVAILABLE
        await stopping
