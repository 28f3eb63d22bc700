"""Connect: one stream that sends to rooms and follows them."""

import asyncio
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.rpc import error_details_pb2

from parley.chat.v1 import chat_service_pb2 as pb2
from tests.chat.conftest import store_messages
from tests.support import detail, raises_status, reason_of

Code = grpc.StatusCode
NOWHERE = "0198c0de-0000-7000-8000-000000000000"


async def test_the_stream_opens_with_a_welcome(chat: Any, as_user: Any) -> None:
    async with chat.connect(as_user("ann"), hello=False) as ann:
        await ann.write(hello=pb2.ConnectRequest.Hello())
        welcome = (await ann.read()).welcome
        assert UUID(welcome.connection_id).version == 7
        assert (welcome.user_id, welcome.max_subscriptions) == (str(as_user.id("ann")), 100)


async def test_a_room_is_followed_from_its_cursor_to_caught_up_and_on(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    for n in range(1, 6):
        await chat.send(room, bob, str(n), f"text {n}")
    async with chat.connect(ann) as stream:
        await stream.subscribe(room, 2)
        subscribed = await stream.notice("subscribed")
        assert (subscribed.room.id, subscribed.room.last_sequence, subscribed.after_sequence) == (room, 5, 2)
        assert stream.events == []
        caught_up = await stream.notice("caught_up")
        assert (caught_up.room_id, caught_up.sequence) == (room, 5)
        assert stream.texts == ["text 3", "text 4", "text 5"]
        message = await chat.send(room, bob, "6", "live")
        assert await stream.until(6) == [3, 4, 5, 6]
        assert stream.events[-1].message_sent == message
        assert stream.events[-1].room_id == room


async def test_a_message_is_acknowledged_to_its_stream_and_shown_to_all_others(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    async with (
        chat.connect(ann, (room, 0)) as sender,
        chat.connect(ann, (room, 0)) as second,
        chat.connect(bob, (room, 0)) as other,
    ):
        await sender.send(room, "m-1", "hello")
        ack = await sender.notice("ack")
        assert (ack.room_id, ack.client_message_id, ack.sequence) == (room, "m-1", 1)
        assert ack.create_time.seconds > 0
        for stream in (second, other):
            assert await stream.until(1) == [1]
            assert stream.events[0].message_sent.id == ack.message_id
        await chat.send(room, bob, "1")
        assert await sender.until(2) == [2]  # and not the echo of its own


async def test_a_message_sent_on_one_server_reaches_a_follower_on_another(start_chat: Any, as_user: Any) -> None:
    here, there = await start_chat(), await start_chat()
    ann, bob = as_user("ann"), as_user("bob")
    room = await here.room_of(ann, bob)
    async with here.connect(ann, (room, 0)) as sender, there.connect(bob, (room, 0)) as follower:
        for n in range(1, 4):
            await sender.send(room, str(n), f"text {n}")
            await sender.notice("ack", sequence=n)
        await follower.until(3)
        assert follower.texts == ["text 1", "text 2", "text 3"]
        await follower.send(room, "1", "back")
        await sender.until(4)
        assert sender.texts == ["back"]


async def test_who_reconnects_with_the_cursor_misses_nothing_and_gets_nothing_twice(
    start_chat: Any, as_user: Any
) -> None:
    servers = [await start_chat(), await start_chat()]
    ann, bob = as_user("ann"), as_user("bob")
    room = await servers[0].room_of(ann, bob)
    total = 60

    async def talk() -> None:
        for n in range(total):
            await servers[n % 2].send(room, bob, str(n))

    talking = asyncio.create_task(talk())
    seen: list[int] = []
    for attempt in range(1, 100):
        async with servers[attempt % 2].connect(ann, hello=False) as stream:
            await stream.write(
                hello=pb2.ConnectRequest.Hello(
                    cursors=[pb2.ConnectRequest.Subscribe(room_id=room, after_sequence=seen[-1] if seen else 0)]
                )
            )
            while len(stream.events) < 7 and (seen + stream.sequences)[-1:] != [total]:
                await stream.read()
            seen += stream.sequences
        if seen[-1:] == [total]:
            break
    await talking
    assert seen == list(range(1, total + 1))


async def test_events_and_acks_of_a_room_come_in_the_order_of_their_sequence(start_chat: Any, as_user: Any) -> None:
    """So that the last one that a client has is its cursor, even when others send at the same time elsewhere."""
    here, there = await start_chat(), await start_chat()
    ann, bob = as_user("ann"), as_user("bob")
    room = await here.room_of(ann, bob)
    each = 50
    async with here.connect(ann, (room, 0)) as stream:

        async def write() -> None:
            for n in range(each):
                await stream.send(room, f"own {n}")

        async def others() -> None:
            for n in range(each):
                await there.send(room, bob, str(n))

        writing = asyncio.gather(write(), others())
        order: list[int] = []
        while len(order) < 2 * each:
            response = await stream.read()
            order += [event.sequence for event in response.events]
            if response.HasField("ack"):
                order.append(response.ack.sequence)
        await writing
    assert order == list(range(1, 2 * each + 1))
    assert {event.message_sent.user_id for event in stream.events} == {str(as_user.id("bob"))}


async def test_a_message_sent_again_on_a_new_stream_gets_the_first_ack(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    room = await chat.room_of(ann)
    first = await chat.send(room, ann, "m-1", "hello")
    for cursor in (0, 1):
        async with chat.connect(ann, (room, cursor)) as stream:
            await stream.send(room, "m-1", "hello")
            ack = await stream.notice("ack")
            assert (ack.message_id, ack.sequence) == (first.id, 1)
    assert await chat.messages(room, ann) == [first]


async def test_a_room_that_is_not_followed_can_be_sent_to(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    room = await chat.room_of(ann)
    async with chat.connect(ann) as stream:
        await stream.send(room, "1")
        assert (await stream.notice("ack")).sequence == 1
        await stream.subscribe(room, 0)
        assert await stream.until(1) == [1]


async def test_many_rooms_share_one_stream(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    rooms = [await chat.room_of(bob, ann) for _ in range(5)]
    async with chat.connect(ann, *((room, 0) for room in rooms)) as stream:
        for n in range(1, 11):
            await asyncio.gather(*(chat.send(room, bob, str(n)) for room in rooms))
        while len(stream.events) < 50:
            await stream.read()
    for room in rooms:
        assert [e.sequence for e in stream.events if e.room_id == room] == list(range(1, 11))


async def test_a_long_history_comes_whole_and_in_order_in_messages_of_a_bounded_size(
    chat: Any, as_user: Any, database: Any
) -> None:
    ann = as_user("ann")
    room = await chat.room_of(ann)
    await store_messages(database, room, as_user.id("ann"), 350, "ж" * 10_000)
    async with chat.connect(ann) as stream:
        await stream.subscribe(room, 0)
        largest = 0
        while not (response := await stream.read()).HasField("caught_up"):
            largest = max(largest, response.ByteSize())
        assert stream.sequences == list(range(1, 351))
        assert largest < 1024 * 1024


async def test_a_subscription_can_be_started_over_at_another_cursor(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    for n in range(3):
        await chat.send(room, bob, str(n))
    async with chat.connect(ann, (room, 0)) as stream:
        assert stream.sequences == [1, 2, 3]
        await stream.subscribe(room, 1)
        await stream.notice("subscribed", after_sequence=1)
        await stream.notice("caught_up", sequence=3)
        assert stream.sequences == [1, 2, 3, 2, 3]
        await chat.send(room, bob, "live")
        await stream.until(4)
        await stream.write(ping=pb2.ConnectRequest.Ping(nonce=1))
        await stream.notice("pong")
        assert stream.sequences == [1, 2, 3, 2, 3, 4]


async def test_after_unsubscribing_nothing_of_the_room_comes(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room, other = await chat.room_of(ann, bob), await chat.room_of(ann, bob)
    async with chat.connect(ann, (room, 0), (other, 0)) as stream:
        await stream.write(unsubscribe=pb2.ConnectRequest.Unsubscribe(room_id=room))
        unsubscribed = await stream.notice("unsubscribed")
        assert (unsubscribed.room_id, unsubscribed.HasField("reason")) == (room, False)
        await chat.send(room, bob, "1")
        await chat.send(other, bob, "1")
        await stream.until(1)
        assert [event.room_id for event in stream.events] == [other]


async def test_a_ping_is_answered(chat: Any, as_user: Any) -> None:
    async with chat.connect(as_user("ann")) as stream:
        await stream.write(ping=pb2.ConnectRequest.Ping(nonce=42))
        assert (await stream.notice("pong")).nonce == 42


@pytest.mark.parametrize(
    "first",
    [
        pb2.ConnectRequest(ping=pb2.ConnectRequest.Ping(nonce=1)),
        pb2.ConnectRequest(subscribe=pb2.ConnectRequest.Subscribe(room_id=NOWHERE)),
        pb2.ConnectRequest(send=pb2.ConnectRequest.Send(room_id=NOWHERE, client_message_id="1", text="hi")),
    ],
)
async def test_a_stream_that_does_not_begin_with_hello_is_refused(
    chat: Any, as_user: Any, first: pb2.ConnectRequest
) -> None:
    call = chat.stub.Connect(metadata=as_user("ann"))
    await call.write(first)
    with raises_status(Code.INVALID_ARGUMENT, "HELLO_EXPECTED"):
        await call.read()


async def test_a_stream_that_ends_without_a_word_is_refused(chat: Any, as_user: Any) -> None:
    call = chat.stub.Connect(metadata=as_user("ann"))
    await call.done_writing()
    with raises_status(Code.INVALID_ARGUMENT, "HELLO_EXPECTED"):
        await call.read()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff\xff garbage", "REQUEST_MALFORMED"),
        (b"", "VALIDATION_FAILED"),
        (
            pb2.ConnectRequest(
                hello=pb2.ConnectRequest.Hello(cursors=[pb2.ConnectRequest.Subscribe(room_id="room")])
            ).SerializeToString(),
            "VALIDATION_FAILED",
        ),
    ],
)
async def test_a_stream_that_sends_garbage_first_is_refused(chat: Any, as_user: Any, raw: bytes, reason: str) -> None:
    call = chat.raw_connect(as_user("ann"))
    await call.write(raw)
    with raises_status(Code.INVALID_ARGUMENT, reason):
        await call.read()


async def test_garbage_later_is_answered_with_a_nack_and_the_stream_goes_on(chat: Any, as_user: Any) -> None:
    call = chat.raw_connect(as_user("ann"))
    await call.write(pb2.ConnectRequest(hello=pb2.ConnectRequest.Hello()).SerializeToString())
    assert pb2.ConnectResponse.FromString(await call.read()).HasField("welcome")
    await call.write(b"\xff\xff garbage")
    nack = pb2.ConnectResponse.FromString(await call.read()).nack
    assert (reason_of(nack.status), nack.room_id, nack.client_message_id) == ("REQUEST_MALFORMED", "", "")
    await call.write(pb2.ConnectRequest(ping=pb2.ConnectRequest.Ping(nonce=3)).SerializeToString())
    assert pb2.ConnectResponse.FromString(await call.read()).pong.nonce == 3
    call.cancel()


async def test_each_refusal_is_a_nack_that_says_what_it_is_about_and_the_stream_goes_on(
    chat: Any, as_user: Any
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room, foreign = await chat.room_of(ann), await chat.room_of(bob)
    await chat.send(room, ann, "taken", "first")
    wrong: list[tuple[dict[str, Any], str, Code, tuple[str, str]]] = [
        (send(NOWHERE, "1"), "ROOM_NOT_FOUND", Code.NOT_FOUND, (NOWHERE, "1")),
        (send(foreign, "2"), "NOT_A_MEMBER", Code.FAILED_PRECONDITION, (foreign, "2")),
        (send(room, "taken"), "CLIENT_MESSAGE_ID_REUSED", Code.ALREADY_EXISTS, (room, "taken")),
        (send(room, "long", "x" * 10_001), "VALIDATION_FAILED", Code.INVALID_ARGUMENT, (room, "long")),
        (subscribe(NOWHERE), "ROOM_NOT_FOUND", Code.NOT_FOUND, (NOWHERE, "")),
        (subscribe(foreign), "NOT_A_MEMBER", Code.FAILED_PRECONDITION, (foreign, "")),
        (subscribe(room, 2), "CURSOR_INVALID", Code.OUT_OF_RANGE, (room, "")),
        (subscribe(room, -1), "VALIDATION_FAILED", Code.INVALID_ARGUMENT, (room, "")),
        ({"hello": pb2.ConnectRequest.Hello()}, "HELLO_EXPECTED", Code.INVALID_ARGUMENT, ("", "")),
        ({}, "VALIDATION_FAILED", Code.INVALID_ARGUMENT, ("", "")),
    ]
    async with chat.connect(ann) as stream:
        for intent, reason, code, about in wrong:
            await stream.write(**intent)
            nack = await stream.notice("nack")
            assert (reason_of(nack.status), nack.status.code) == (reason, code.value[0])
            assert (nack.room_id, nack.client_message_id) == about
        await stream.send(room, "after all", "still here")
        assert (await stream.notice("ack")).sequence == 2  # and no refused message took a number


def send(room: str, name: str, text: str = "x") -> dict[str, Any]:
    return {"send": pb2.ConnectRequest.Send(room_id=room, client_message_id=name, text=text)}


def subscribe(room: str, after: int = 0) -> dict[str, Any]:
    return {"subscribe": pb2.ConnectRequest.Subscribe(room_id=room, after_sequence=after)}


async def test_a_refused_start_over_leaves_the_subscription_as_it_was(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    async with chat.connect(ann, (room, 0)) as stream:
        await stream.subscribe(room, 9)
        await stream.notice("nack")
        await chat.send(room, bob, "1")
        assert await stream.until(1) == [1]


async def test_a_stream_follows_no_more_rooms_than_it_may(start_chat: Any, as_user: Any) -> None:
    chat = await start_chat(chat_max_subscriptions=2)
    ann = as_user("ann")
    rooms = [await chat.room_of(ann) for _ in range(3)]
    async with chat.connect(ann, (rooms[0], 0), (rooms[1], 0)) as stream:
        await stream.subscribe(rooms[2])
        nack = await stream.notice("nack")
        assert (reason_of(nack.status), nack.status.code) == ("TOO_MANY_SUBSCRIPTIONS", 8)
        await stream.subscribe(rooms[1])  # It is followed already: this is no third.
        await stream.notice("subscribed")
        await stream.write(unsubscribe=pb2.ConnectRequest.Unsubscribe(room_id=rooms[0]))
        await stream.subscribe(rooms[2])
        assert (await stream.notice("subscribed")).room.id == rooms[2]


async def test_a_refused_message_says_which_field_was_wrong(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    room = await chat.room_of(ann)
    async with chat.connect(ann) as stream:
        await stream.send(room, "1", "x" * 10_001)
        bad = detail((await stream.notice("nack")).status, error_details_pb2.BadRequest)
        assert bad is not None
        assert [violation.field for violation in bad.field_violations] == ["send.text"]


async def test_who_half_closes_gets_every_answer_and_then_ok(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    room = await chat.room_of(ann)
    async with chat.connect(ann, (room, 0)) as stream:
        for n in range(20):
            await stream.send(room, str(n))
        await stream.call.done_writing()
        responses, code = await stream.rest()
        assert code == Code.OK
        assert [r.ack.sequence for r in responses if r.HasField("ack")] == list(range(1, 21))


async def test_a_reader_that_stops_for_a_while_still_gets_everything_once(chat: Any, as_user: Any) -> None:
    """More is sent than gRPC's windows and the server's queues hold."""
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.room_of(ann, bob)
    total = 1_200
    async with chat.connect(ann, (room, 0)) as slow, chat.connect(bob, (room, 0)) as sender:
        for n in range(total):
            await sender.send(room, str(n), "x" * 10_000)
        await sender.notice("ack", sequence=total)
        await slow.until(total)
        assert slow.sequences == list(range(1, total + 1))
