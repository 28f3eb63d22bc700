"""Messages through the unary calls: numbered without holes, stored exactly once."""

import asyncio
from typing import Any

import grpc
import pytest

from parley.chat.v1 import chat_service_pb2 as pb2
from tests.chat.conftest import store_messages
from tests.support import raises_status

Code = grpc.StatusCode


async def last_sequence(chat: Any, room: str, who: Any) -> int:
    return int((await chat.stub.GetRoom(pb2.GetRoomRequest(id=room), metadata=who)).room.last_sequence)


async def test_a_sent_message_is_stored_whole(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    room = await chat.create_room(ann)
    message = await chat.send(room, ann, "m-1", "Grüße 🎉")
    assert (message.room_id, message.user_id, message.sequence) == (room, str(as_user.id("ann")), 1)
    assert (message.client_message_id, message.text) == ("m-1", "Grüße 🎉")
    assert message.create_time.seconds > 0
    assert await chat.messages(room, ann) == [message]


async def test_the_same_name_and_text_give_the_first_message_and_take_no_number(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.create_room(ann)
    await chat.join(room, bob)
    first = await chat.send(room, ann, "1", "hello")
    assert await chat.send(room, ann, "1", "hello") == first
    # The name is the sender's own, and the room's.
    assert (await chat.send(room, bob, "1", "other")).sequence == 2
    other = await chat.create_room(ann)
    assert (await chat.send(other, ann, "1", "other")).sequence == 1


async def test_a_retry_gives_the_first_message_also_to_a_sender_who_has_left_since(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.create_room(ann)
    await chat.join(room, bob)
    first = await chat.send(room, bob, "1", "hello")
    await chat.stub.LeaveRoom(pb2.LeaveRoomRequest(room_id=room), metadata=bob)
    assert await chat.send(room, bob, "1", "hello") == first
    with raises_status(Code.FAILED_PRECONDITION, "NOT_A_MEMBER"):
        await chat.send(room, bob, "2", "still here?")
    assert await chat.messages(room, ann) == [first]


async def test_the_same_name_with_another_text_is_refused_and_takes_no_number(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    room = await chat.create_room(ann)
    first = await chat.send(room, ann, "1", "hello")
    with raises_status(Code.ALREADY_EXISTS, "CLIENT_MESSAGE_ID_REUSED"):
        await chat.send(room, ann, "1", "hello!")
    assert await chat.messages(room, ann) == [first]
    assert (await chat.send(room, ann, "2")).sequence == 2


async def test_eight_senders_at_once_on_two_servers_leave_no_hole(start_chat: Any, as_user: Any) -> None:
    servers = [await start_chat(), await start_chat()]
    people = [as_user(f"user{n}") for n in range(8)]
    room = await servers[0].create_room(people[0])
    await servers[0].join(room, *people[1:])

    async def send(n: int) -> list[int]:
        return [(await servers[n % 2].send(room, people[n], f"{n}-{i}")).sequence for i in range(25)]

    answered = await asyncio.gather(*(send(n) for n in range(8)))
    assert all(numbers == sorted(numbers) for numbers in answered)
    assert sorted(number for numbers in answered for number in numbers) == list(range(1, 201))
    stored = [await chat_page(servers[0], room, people[0], after) for after in (0, 100)]
    assert [message.sequence for page in stored for message in page] == list(range(1, 201))


async def chat_page(chat: Any, room: str, who: Any, after: int) -> list[pb2.Message]:
    return list(await chat.messages(room, who, after_sequence=after))


async def test_one_name_sent_twenty_times_at_once_is_one_message(start_chat: Any, as_user: Any) -> None:
    servers = [await start_chat(), await start_chat()]
    ann = as_user("ann")
    room = await servers[0].create_room(ann)
    sent = await asyncio.gather(*(servers[n % 2].send(room, ann, "once", "hello") for n in range(20)))
    assert {(message.id, message.sequence) for message in sent} == {(sent[0].id, 1)}
    assert await servers[0].messages(room, ann) == [sent[0]]
    assert (await servers[1].send(room, ann, "next")).sequence == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, list(range(1, 101))),
        ({"page_size": 3}, [1, 2, 3]),
        ({"page_size": 3, "after_sequence": 5}, [6, 7, 8]),
        ({"page_size": 3, "before_sequence": 100}, [97, 98, 99]),
        ({"page_size": 3, "before_sequence": 3}, [1, 2]),
        ({"after_sequence": 103}, [104, 105]),
        ({"after_sequence": 105}, []),
        ({"after_sequence": 10**15}, []),
        ({"before_sequence": 1}, []),
    ],
)
async def test_messages_are_listed_after_or_before_a_point_in_order(
    chat: Any, as_user: Any, database: Any, fields: dict[str, int], expected: list[int]
) -> None:
    ann = as_user("ann")
    room = await chat.create_room(ann)
    await store_messages(database, room, as_user.id("ann"), 105)
    response = await chat.stub.ListMessages(pb2.ListMessagesRequest(room_id=room, **fields), metadata=ann)
    assert ([message.sequence for message in response.messages], response.last_sequence) == (expected, 105)


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        ({"client_message_id": ""}, "client_message_id"),
        ({"client_message_id": "x" * 65}, "client_message_id"),
        ({"text": ""}, ""),
        ({"text": "x" * 10_001}, "text"),
        ({"text": "a\0b"}, "text"),
        ({"room_id": "room"}, "room_id"),
    ],
)
async def test_a_message_that_breaks_the_rules_is_refused_and_takes_no_number(
    chat: Any, as_user: Any, fields: dict[str, str], violated: str
) -> None:
    ann = as_user("ann")
    room = await chat.create_room(ann)
    request = pb2.SendMessageRequest(**({"room_id": room, "client_message_id": "1", "text": "hi"} | fields))
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[violated]):
        await chat.stub.SendMessage(request, metadata=ann)
    assert await last_sequence(chat, room, ann) == 0


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        ({"page_size": 101}, "page_size"),
        ({"page_size": -1}, "page_size"),
        ({"after_sequence": -1}, "after_sequence"),
        ({"before_sequence": 0}, "before_sequence"),
    ],
)
async def test_a_page_that_breaks_the_rules_is_refused(
    chat: Any, as_user: Any, fields: dict[str, int], violated: str
) -> None:
    ann = as_user("ann")
    room = await chat.create_room(ann)
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[violated]):
        await chat.messages(room, ann, **fields)
