"""WatchRoom: one room, read only."""

import asyncio
from typing import Any

import grpc
from sqlalchemy import text

from parley.chat.v1 import chat_service_pb2 as pb2
from tests.support import raises_status

Code = grpc.StatusCode
NOWHERE = "0198c0de-0000-7000-8000-000000000000"


async def read_until(call: Any, sequence: int) -> list[int]:
    seen: list[int] = []
    async with asyncio.timeout(10):
        while sequence not in seen:
            seen += [event.sequence for event in (await call.read()).events]
    return seen


async def test_a_watcher_gets_what_it_missed_then_caught_up_then_what_happens(start_chat: Any, as_user: Any) -> None:
    here, there = await start_chat(), await start_chat()
    ann = as_user("ann")
    room = await here.create_room(ann)
    for n in range(1, 4):
        await here.send(room, ann, str(n), f"text {n}")
    call = there.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room, after_sequence=1), metadata=ann)
    first, second = await call.read(), await call.read()
    assert [event.message_sent.text for event in first.events] == ["text 2", "text 3"]
    assert (second.caught_up.room_id, second.caught_up.sequence) == (room, 3)
    message = await here.send(room, ann, "4", "live")
    async with asyncio.timeout(10):
        live = await call.read()
    assert [event.message_sent for event in live.events] == [message]
    call.cancel()


async def test_messages_that_were_removed_are_told_as_a_gap(chat: Any, as_user: Any, database: Any) -> None:
    ann = as_user("ann")
    room = await chat.create_room(ann)
    for n in range(1, 5):
        await chat.send(room, ann, str(n))
    async with database.transaction() as tx:
        await tx.execute(text("DELETE FROM chat.messages WHERE sequence < 3"))
    call = chat.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=ann)
    gap = (await call.read()).gap
    assert (gap.room_id, gap.first_sequence, gap.last_sequence) == (room, 1, 2)
    assert await read_until(call, 4) == [3, 4]
    call.cancel()


async def test_a_watch_that_cannot_begin_is_refused(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    room, foreign = await chat.create_room(ann), await chat.create_room(as_user("bob"))
    for room_id, after, code, reason in (
        (NOWHERE, 0, Code.NOT_FOUND, "ROOM_NOT_FOUND"),
        (foreign, 0, Code.FAILED_PRECONDITION, "NOT_A_MEMBER"),
        (room, 1, Code.OUT_OF_RANGE, "CURSOR_INVALID"),
        (room, -1, Code.INVALID_ARGUMENT, "VALIDATION_FAILED"),
    ):
        request = pb2.WatchRoomRequest(room_id=room_id, after_sequence=after)
        with raises_status(code, reason):
            await chat.stub.WatchRoom(request, metadata=ann).read()


async def test_who_leaves_loses_every_stream_on_the_room_on_every_server(start_chat: Any, as_user: Any) -> None:
    # Looks come far too late here: a hint has to do it.
    here, there = [await start_chat(chat_membership_seconds=600) for _ in range(2)]
    ann, bob = as_user("ann"), as_user("bob")
    room, other = await here.create_room(ann), await here.create_room(ann)
    await here.join(room, bob)
    await here.join(other, bob)
    watches = [server.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=bob) for server in (here, there)]
    for watch in watches:
        assert (await watch.read()).HasField("caught_up")
    async with here.connect(bob, (room, 0)) as near, there.connect(bob, (room, 0), (other, 0)) as far:
        await here.leave(room, bob)
        async with asyncio.timeout(5):
            for watch in watches:
                with raises_status(Code.FAILED_PRECONDITION, "NOT_A_MEMBER"):
                    await watch.read()
            for stream in (near, far):
                unsubscribed = await stream.notice("unsubscribed", room_id=room)
                assert unsubscribed.reason.code == Code.FAILED_PRECONDITION.value[0]
        await here.send(room, ann, "secret")
        await here.send(other, ann, "shown")
        await far.until(1)
        assert [event.room_id for event in far.events] == [other]
        # Who joins again can follow again, on the same stream.
        await here.join(room, bob)
        await far.subscribe(room, 0)
        assert (await far.notice("subscribed")).room.id == room


async def test_leaving_ends_streams_even_when_no_hint_arrives(start_chat: Any, as_user: Any, database: Any) -> None:
    chat = await start_chat(chat_membership_seconds=0.3)
    ann = as_user("ann")
    room = await chat.create_room(ann)
    call = chat.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=ann)
    assert (await call.read()).HasField("caught_up")
    async with database.transaction() as tx:
        await tx.execute(text("DELETE FROM chat.members"))
    async with asyncio.timeout(5):
        with raises_status(Code.FAILED_PRECONDITION, "NOT_A_MEMBER"):
            await call.read()
