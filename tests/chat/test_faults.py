"""Draining, and a database that goes away: nothing acknowledged is lost, and streams go on."""

import asyncio
from typing import Any

import grpc
import psycopg
import pytest
from sqlalchemy import text

from parley.chat.v1 import chat_service_pb2 as pb2
from services.kit.database import libpq_url
from tests.chat.conftest import database_away
from tests.support import raises_status, reason_of, status_of

pytestmark = pytest.mark.slow

Code = grpc.StatusCode


async def test_a_draining_server_says_go_away_and_answers_what_was_sent_before_it_ends(
    stoppable_chat: Any, as_user: Any
) -> None:
    stop, chat = await stoppable_chat()
    ann = as_user("ann")
    room = await chat.room_of(ann)
    async with chat.connect(ann, (room, 0)) as stream:
        stopping = asyncio.create_task(stop())
        go_away = await stream.notice("go_away")
        assert 0 < go_away.reconnect_after.ToTimedelta().total_seconds() <= 1
        for n in range(10):
            await stream.send(room, str(n))
        await stream.call.done_writing()
        responses, code = await stream.rest()
        assert code == Code.OK
        assert [r.ack.sequence for r in responses if r.HasField("ack")] == list(range(1, 11))
        await stopping


async def test_streams_that_stay_are_ended_with_shutting_down(stoppable_chat: Any, as_user: Any) -> None:
    stop, chat = await stoppable_chat(chat_go_away_seconds=0.2)
    ann = as_user("ann")
    room = await chat.room_of(ann)
    watch = chat.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=ann)
    assert (await watch.read()).HasField("caught_up")
    async with chat.connect(ann, (room, 0)) as stream:
        stopping = asyncio.create_task(stop())
        with raises_status(Code.UNAVAILABLE, "SHUTTING_DOWN"):
            await watch.read()
        await stream.notice("go_away")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert reason_of(status_of(caught.value)) == "SHUTTING_DOWN"
        await stopping


async def test_a_message_that_is_being_stored_when_the_time_is_up_is_still_answered(
    stoppable_chat: Any, as_user: Any, database: Any
) -> None:
    stop, chat = await stoppable_chat(chat_go_away_seconds=0.1)
    ann = as_user("ann")
    room = await chat.room_of(ann)
    async with chat.connect(ann, (room, 0)) as stream:
        async with database.transaction() as tx:
            await tx.execute(text("SELECT 1 FROM chat.rooms FOR UPDATE"))
            await stream.send(room, "1")
            stopping = asyncio.create_task(stop())
            await stream.notice("go_away")
            await asyncio.sleep(0.4)  # the time is up by now
        assert (await stream.notice("ack")).sequence == 1
        assert (await stream.rest())[1] == Code.UNAVAILABLE
        await stopping


async def test_a_stream_that_writes_without_end_is_drained_and_told_of_all_that_was_stored(
    stoppable_chat: Any, chat: Any, as_user: Any
) -> None:
    stop, leaving = await stoppable_chat(chat_go_away_seconds=0.2)
    ann = as_user("ann")
    room = await chat.room_of(ann)
    acknowledged: list[str] = []
    async with leaving.connect(ann, (room, 0)) as stream:

        async def write() -> None:
            for n in range(100_000):
                await stream.send(room, str(n))
                await asyncio.sleep(0.002)

        writing = asyncio.create_task(write())
        await stream.notice("ack", sequence=5)
        acknowledged_before = [str(n) for n in range(5)]
        stopping = asyncio.create_task(stop())
        responses, code = await stream.rest()
        acknowledged = [r.ack.client_message_id for r in responses if r.HasField("ack")]
        # gRPC's own client says the latter, whatever the server said, when one of its writes meets the end of the call.
        assert code == Code.UNAVAILABLE or await stream.call.details() == "Internal error from Core"
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await stopping
    stored: list[str] = []
    while page := await chat.messages(room, ann, after_sequence=len(stored)):
        stored += [message.client_message_id for message in page]
    assert stored
    assert acknowledged_before + acknowledged == stored


def end_all_backends(url: str) -> int:
    """What a restart of PostgreSQL does to its clients."""
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return len(ended.fetchall())


async def test_followers_outlast_the_loss_of_every_database_connection(
    start_chat: Any, as_user: Any, database_url: str
) -> None:
    here, there = await start_chat(), await start_chat()
    ann, bob = as_user("ann"), as_user("bob")
    room = await here.room_of(ann, bob)
    watch = there.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=ann)
    assert (await watch.read()).HasField("caught_up")
    async with here.connect(bob, (room, 0)) as sender, there.connect(ann, (room, 0)) as follower:
        for n in range(1, 16):
            if n % 5 == 0:
                assert end_all_backends(database_url) > 0
            await send_until_stored(sender, room, str(n))
        await follower.until(15)
        assert follower.sequences == list(range(1, 16))
        seen: list[int] = []
        async with asyncio.timeout(10):
            while 15 not in seen:
                seen += [event.sequence for event in (await watch.read()).events]
        assert seen == follower.sequences
    watch.cancel()


async def send_until_stored(stream: Any, room: str, name: str) -> None:
    """As a client should: a nack with UNAVAILABLE says nothing, so the same message is sent again."""
    async with asyncio.timeout(20):
        while True:
            await stream.send(room, name)
            while True:
                response = await stream.read()
                if response.HasField("ack") and response.ack.client_message_id == name:
                    return
                if response.HasField("nack"):
                    assert reason_of(response.nack.status) == "DATABASE_UNAVAILABLE"
                    break
            await asyncio.sleep(0.1)


async def test_followers_wait_for_a_database_that_is_away_and_go_on(
    start_chat: Any, as_user: Any, database_url: str, template: str
) -> None:
    chat = await start_chat()
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    async with chat.connect(ann, (room, 0)) as follower, chat.connect(bob, (room, 0)) as sender:
        async with database_away(database_url, template):
            await sender.send(room, "1", "while away")
            nack = await sender.notice("nack")
            assert (reason_of(nack.status), nack.status.code) == ("DATABASE_UNAVAILABLE", 14)
            assert (nack.room_id, nack.client_message_id) == (room, "1")
            await follower.write(ping=pb2.ConnectRequest.Ping(nonce=1))
            await follower.notice("pong")
        await send_until_stored(sender, room, "1")
        assert await follower.until(1) == [1]
