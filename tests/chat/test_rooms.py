"""Rooms and their members through the unary calls."""

from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.chat.v1 import chat_service_pb2 as pb2
from tests.support import raises_status

NOWHERE = "0198c0de-0000-7000-8000-000000000000"
Code = grpc.StatusCode


async def test_a_created_room_is_whole_and_its_creator_its_member(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    request = pb2.CreateRoomRequest(name="plans", description="what to do")
    room = (await chat.stub.CreateRoom(request, metadata=ann)).room
    assert (room.name, room.description, room.last_sequence, room.member_count) == ("plans", "what to do", 0, 1)
    assert room.user_id == str(as_user.id("ann"))
    assert room.create_time.seconds > 0
    members = await chat.stub.ListMembers(pb2.ListMembersRequest(room_id=room.id), metadata=ann)
    assert [member.user_id for member in members.members] == [room.user_id]
    assert (await chat.stub.GetRoom(pb2.GetRoomRequest(id=room.id), metadata=as_user("bob"))).room == room


async def test_the_same_request_id_and_payload_give_the_same_room(chat: Any, as_user: Any) -> None:
    ann, request_id = as_user("ann"), str(uuid4())
    first = await chat.create_room(ann, request_id=request_id)
    await chat.join(first, as_user("bob"))
    again = await chat.stub.CreateRoom(pb2.CreateRoomRequest(name="plans", request_id=request_id), metadata=ann)
    assert (again.room.id, again.room.member_count) == (first, 2)
    assert await chat.create_room(as_user("bob"), request_id=request_id) != first  # Names are each user's own.
    rooms = await chat.stub.ListRooms(pb2.ListRoomsRequest(), metadata=ann)
    assert rooms.total_size == 2


@pytest.mark.parametrize("changed", [{"name": "other"}, {"description": "other"}])
async def test_the_same_request_id_with_another_payload_is_refused(
    chat: Any, as_user: Any, changed: dict[str, str]
) -> None:
    ann, request_id = as_user("ann"), str(uuid4())
    await chat.create_room(ann, request_id=request_id)
    with raises_status(Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await chat.create_room(ann, **({"request_id": request_id} | changed))
    assert (await chat.stub.ListRooms(pb2.ListRoomsRequest(), metadata=ann)).total_size == 1


async def test_rooms_are_listed_newest_first_by_pages_with_the_total(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    rooms = [await chat.create_room(ann if n % 2 else bob, f"room {n}") for n in range(5)][::-1]
    seen: list[str] = []
    token = ""
    for size in (2, 2, 1):
        request = pb2.ListRoomsRequest(page_size=2, page_token=token)
        page = await chat.stub.ListRooms(request, metadata=ann)
        assert (len(page.rooms), page.total_size) == (size, 5)
        seen, token = seen + [room.id for room in page.rooms], page.next_page_token
    assert (seen, token) == (rooms, "")
    joined = await chat.stub.ListRooms(pb2.ListRoomsRequest(joined_only=True), metadata=ann)
    assert ([room.id for room in joined.rooms], joined.total_size) == ([rooms[1], rooms[3]], 2)
    skipped = await chat.stub.ListRooms(pb2.ListRoomsRequest(skip=4), metadata=ann)
    assert ([room.id for room in skipped.rooms], skipped.total_size) == (rooms[4:], 5)
    beyond = await chat.stub.ListRooms(pb2.ListRoomsRequest(skip=9), metadata=ann)
    assert (list(beyond.rooms), beyond.total_size) == ([], 5)


async def test_joining_twice_changes_nothing(chat: Any, as_user: Any) -> None:
    bob = as_user("bob")
    room = await chat.create_room(as_user("ann"))
    request = pb2.JoinRoomRequest(room_id=room)
    first = await chat.stub.JoinRoom(request, metadata=bob)
    assert first.member.user_id == str(as_user.id("bob"))
    assert await chat.stub.JoinRoom(request, metadata=bob) == first
    assert (await chat.stub.GetRoom(pb2.GetRoomRequest(id=room), metadata=bob)).room.member_count == 2


async def test_who_leaves_is_no_member_any_more_and_a_repeat_says_so(chat: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await chat.create_room(ann)
    await chat.join(room, bob)
    await chat.leave(room, bob)
    page = await chat.stub.ListMembers(pb2.ListMembersRequest(room_id=room), metadata=ann)
    assert ([member.user_id for member in page.members], page.total_size) == ([str(as_user.id("ann"))], 1)
    with raises_status(Code.FAILED_PRECONDITION, "NOT_A_MEMBER"):
        await chat.leave(room, bob)


async def test_members_are_listed_in_the_order_of_joining_by_pages(chat: Any, as_user: Any) -> None:
    names = ["ann", "bob", "cyd", "dan", "eve"]
    room = await chat.create_room(as_user("ann"))
    await chat.join(room, *(as_user(name) for name in names[1:]))
    seen: list[str] = []
    token = ""
    for size in (2, 2, 1):
        request = pb2.ListMembersRequest(room_id=room, page_size=2, page_token=token)
        page = await chat.stub.ListMembers(request, metadata=as_user("cyd"))
        assert (len(page.members), page.total_size) == (size, 5)
        seen, token = seen + [member.user_id for member in page.members], page.next_page_token
    assert (seen, token) == ([str(as_user.id(name)) for name in names], "")


@pytest.mark.parametrize("call", ["GetRoom", "JoinRoom", "LeaveRoom", "ListMembers", "SendMessage", "ListMessages"])
async def test_a_room_that_does_not_exist_is_not_found(chat: Any, as_user: Any, call: str) -> None:
    with raises_status(Code.NOT_FOUND, "ROOM_NOT_FOUND"):
        await getattr(chat.stub, call)(request_of(call, NOWHERE), metadata=as_user("ann"))


@pytest.mark.parametrize("call", ["LeaveRoom", "ListMembers", "SendMessage", "ListMessages"])
async def test_what_is_for_members_is_refused_to_others_and_changes_nothing(chat: Any, as_user: Any, call: str) -> None:
    ann = as_user("ann")
    room = await chat.create_room(ann)
    with raises_status(Code.FAILED_PRECONDITION, "NOT_A_MEMBER"):
        await getattr(chat.stub, call)(request_of(call, room), metadata=as_user("bob"))
    found = (await chat.stub.GetRoom(pb2.GetRoomRequest(id=room), metadata=ann)).room
    assert (found.member_count, found.last_sequence) == (1, 0)


async def test_a_page_token_of_another_list_is_refused(chat: Any, as_user: Any) -> None:
    ann = as_user("ann")
    rooms = [await chat.create_room(ann) for _ in range(2)]
    token = (await chat.stub.ListRooms(pb2.ListRoomsRequest(page_size=1), metadata=ann)).next_page_token
    for request in (
        pb2.ListRoomsRequest(joined_only=True, page_token=token),
        pb2.ListRoomsRequest(page_token=token[:-2]),
        pb2.ListRoomsRequest(page_token="!"),
    ):
        with raises_status(Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
            await chat.stub.ListRooms(request, metadata=ann)
    with raises_status(Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await chat.stub.ListMembers(pb2.ListMembersRequest(room_id=rooms[0], page_token=token), metadata=ann)


@pytest.mark.parametrize(
    ("fields", "violated"),
    [
        ({"name": ""}, "name"),
        ({"name": " \t"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "ok", "description": "x" * 1001}, "description"),
        ({"name": "ok", "request_id": "no uuid"}, "request_id"),
    ],
)
async def test_a_room_that_breaks_the_rules_is_refused(
    chat: Any, as_user: Any, fields: dict[str, str], violated: str
) -> None:
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[violated]):
        await chat.stub.CreateRoom(pb2.CreateRoomRequest(**fields), metadata=as_user("ann"))
    assert (await chat.stub.ListRooms(pb2.ListRoomsRequest(), metadata=as_user("ann"))).total_size == 0


@pytest.mark.parametrize("call", ["GetRoom", "JoinRoom", "ListMembers", "SendMessage", "ListMessages"])
async def test_an_id_that_is_none_is_refused(chat: Any, as_user: Any, call: str) -> None:
    field = "id" if call == "GetRoom" else "room_id"
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
        await getattr(chat.stub, call)(request_of(call, "no uuid"), metadata=as_user("ann"))


@pytest.mark.parametrize("call", ["CreateRoom", "ListRooms", "GetRoom", "SendMessage"])
async def test_nobody_without_a_token_gets_in(chat: Any, call: str) -> None:
    request = pb2.CreateRoomRequest(name="x") if call == "CreateRoom" else request_of(call, NOWHERE)
    with raises_status(Code.UNAUTHENTICATED, "TOKEN_MISSING"):
        await getattr(chat.stub, call)(request)


def request_of(call: str, room_id: str) -> Any:
    request = getattr(pb2, f"{call}Request")
    if call == "ListRooms":
        return request()
    if call == "GetRoom":
        return request(id=room_id)
    if call == "SendMessage":
        return request(room_id=room_id, client_message_id="1", text="hi")
    return request(room_id=room_id)
