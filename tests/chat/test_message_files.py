"""Messages with files: who posts one can read it, and is answered the same for ever."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2
from sqlalchemy import text as sql

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.wiring import open_chat_jobs
from services.kit.settings import DatabaseSettings
from tests.chat.conftest import Chat, store_messages
from tests.conftest import Serve
from tests.sharing import Sharing
from tests.support import TestKeys, bearer, detail, raises_status, reason_of, status_of

Code = grpc.StatusCode
GONE = "FILE_NOT_FOUND"


@pytest.fixture
async def sharing(serve: Serve, settings: Any, keys: TestKeys) -> Sharing:
    """All services but agent, which is not asked when chat lets somebody read, nor about owners."""
    return await Sharing(serve, settings, keys).start("auth", "file", "chat")


@pytest.fixture
async def everything(sharing: Sharing) -> Sharing:
    """All services."""
    return await sharing.start("agent")


def send(room_id: str, name: str, file_ids: Sequence[str], text: str = "") -> dict[str, Any]:
    """A `send` on a Connect stream."""
    return {
        "send": pb2.ConnectRequest.Send(room_id=room_id, client_message_id=name, text=text, file_ids=file_ids),
    }


async def test_a_message_shows_its_files_in_the_senders_order_wherever_it_is_read(
    sharing: Sharing, as_user: Any
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await sharing.chat.room_of(ann, bob)
    ids = sorted([await sharing.upload(ann) for _ in range(3)], reverse=True)
    async with sharing.chat.connect(bob, (room, 0)) as stream:
        posted = await sharing.post(room, ann, *ids, text="three of them")
        await stream.until(1)
        assert [event.message_sent for event in stream.events] == [posted]
    assert list(posted.file_ids) == ids
    assert posted.text == "three of them"
    assert await sharing.chat.messages(room, bob) == [posted]
    watch = sharing.chat.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=bob)
    response: Any = await watch.read()
    assert [event.message_sent for event in response.events] == [posted]
    watch.cancel()


async def test_a_message_has_text_or_files(sharing: Sharing, as_user: Any) -> None:
    ann = as_user("ann")
    room, file_id = await sharing.chat.room_of(ann), await sharing.upload(ann)
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[""]):
        await sharing.post(room, ann)
    assert (await sharing.post(room, ann, file_id)).sequence == 1
    async with sharing.chat.connect(ann, (room, 0)) as stream:
        await stream.write(**send(room, "1", []))
        nack = await stream.notice("nack")
        assert (nack.room_id, nack.client_message_id, reason_of(nack.status)) == (room, "1", "VALIDATION_FAILED")
        await stream.write(**send(room, "1", [file_id]))
        assert (await stream.notice("ack")).sequence == 2


@pytest.mark.parametrize(
    ("file_ids", "field"),
    [
        (["../7"], "file_ids[0]"),
        ([str(UUID(int=n)) for n in range(17)], "file_ids"),
        ([str(UUID(int=1))] * 2, "file_ids"),
    ],
    ids=["none", "too-many", "twice"],
)
async def test_files_that_break_the_rules_are_refused(
    chat: Chat, as_user: Any, file_ids: list[str], field: str
) -> None:
    ann = as_user("ann")
    request = pb2.SendMessageRequest(
        room_id=await chat.room_of(ann), client_message_id="1", text="hi", file_ids=file_ids
    )
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
        await chat.stub.SendMessage(request, metadata=ann)


async def test_a_file_that_is_named_twice_in_two_spellings_is_carried_once(sharing: Sharing, as_user: Any) -> None:
    ann = as_user("ann")
    room, file_id = await sharing.chat.room_of(ann), await sharing.upload(ann)
    assert list((await sharing.post(room, ann, file_id, file_id.upper())).file_ids) == [file_id]


async def test_who_cannot_read_a_file_cannot_post_it_and_nothing_is_stored(everything: Sharing, as_user: Any) -> None:
    sharing, ann, bob = everything, as_user("ann"), as_user("bob")
    room = await sharing.chat.room_of(bob, ann)
    mine, theirs, nobodys = await sharing.upload(bob), await sharing.upload(ann), str(uuid4())
    for file_id in (theirs, nobodys):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sharing.post(room, bob, mine, file_id, text="look")
        assert caught.value.code() == Code.NOT_FOUND
        assert refused_file(status_of(caught.value)) == (GONE, file_id)
    async with sharing.chat.connect(bob, (room, 0)) as stream:
        await stream.write(**send(room, "1", [mine, theirs]))
        nack = await stream.notice("nack")
        assert (nack.room_id, nack.client_message_id, nack.status.code) == (room, "1", 5)
        assert refused_file(nack.status) == (GONE, theirs)
        await stream.write(**send(room, "1", [mine]))
        assert (await stream.notice("ack")).sequence == 1  # The name is free, and no number was taken.
    assert [list(m.file_ids) for m in await sharing.chat.messages(room, ann)] == [[mine]]


def refused_file(status: Any) -> tuple[str, str]:
    """The reason, and the file that was refused."""
    info = detail(status, details_pb2.ErrorInfo)
    assert info is not None
    return info.reason, info.metadata["file_id"]


async def test_who_reads_a_file_by_one_room_may_post_it_to_another(sharing: Sharing, as_user: Any) -> None:
    ann, bob, carol = as_user("ann"), as_user("bob"), as_user("carol")
    first, second = await sharing.chat.room_of(ann, bob), await sharing.chat.room_of(bob, carol)
    file_id = await sharing.upload(ann)
    await sharing.post(first, ann, file_id)
    await sharing.post(second, bob, file_id)
    assert await sharing.reading(carol, file_id) == "OK"


async def test_a_repeat_gives_the_first_message_also_when_its_file_is_gone(sharing: Sharing, as_user: Any) -> None:
    ann = as_user("ann")
    room, one, two = await sharing.chat.room_of(ann), await sharing.upload(ann), await sharing.upload(ann)
    first = await sharing.post(room, ann, one, two, name="1")
    assert await sharing.post(room, ann, one, two, name="1") == first
    await sharing.delete(ann, one)
    assert await sharing.post(room, ann, one, two, name="1") == first
    async with sharing.chat.connect(ann, (room, 0)) as stream:
        await stream.write(**send(room, "1", [one, two]))
        assert (await stream.notice("ack")).sequence == first.sequence
    await sharing.chat.leave(room, ann)
    assert await sharing.post(room, ann, one, two, name="1") == first
    for other in ([two, one], [one], []):
        with raises_status(Code.ALREADY_EXISTS, "CLIENT_MESSAGE_ID_REUSED"):
            await sharing.post(room, ann, *other, name="1", text="" if other else "hi")
    plain = await sharing.chat.room_of(ann)
    await sharing.post(plain, ann, name="1", text="hi")
    with raises_status(Code.ALREADY_EXISTS, "CLIENT_MESSAGE_ID_REUSED"):
        await sharing.post(plain, ann, two, name="1", text="hi")


async def test_one_name_sent_twenty_times_at_once_with_a_file_is_one_message(
    sharing: Sharing, as_user: Any, database: Any
) -> None:
    ann = as_user("ann")
    room, file_id = await sharing.chat.room_of(ann), await sharing.upload(ann)
    sent = await asyncio.gather(*(sharing.post(room, ann, file_id, name="once") for _ in range(20)))
    assert {(message.id, message.sequence) for message in sent} == {(sent[0].id, 1)}
    assert await count_message_files(database) == 1


async def test_while_the_file_service_is_away_messages_without_files_go_on(chat: Chat, as_user: Any) -> None:
    ann = as_user("ann")
    room = await chat.room_of(ann)
    request = pb2.SendMessageRequest(room_id=room, client_message_id="1", text="look", file_ids=[str(uuid4())])
    with raises_status(Code.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
        await chat.stub.SendMessage(request, metadata=ann)
    async with chat.connect(ann, (room, 0)) as stream:
        await stream.write(**send(room, "1", [str(uuid4())]))
        nack = await stream.notice("nack")
        assert (nack.client_message_id, reason_of(nack.status)) == ("1", "DEPENDENCY_UNAVAILABLE")
        await stream.send(room, "1")
        assert (await stream.notice("ack")).sequence == 1


async def test_who_may_not_post_learns_so_before_any_file_is_looked_at(chat: Chat, as_user: Any) -> None:
    room = await chat.room_of(as_user("ann"))
    for room_id, code, reason in (
        (room, Code.FAILED_PRECONDITION, "NOT_A_MEMBER"),
        (str(uuid4()), Code.NOT_FOUND, "ROOM_NOT_FOUND"),
    ):
        request = pb2.SendMessageRequest(room_id=room_id, client_message_id="1", file_ids=[str(uuid4())])
        with raises_status(code, reason):
            await chat.stub.SendMessage(request, metadata=as_user("bob"))


async def test_a_stream_posts_files_with_the_token_that_it_was_renewed_with(
    sharing: Sharing, as_user: Any, keys: TestKeys, revoked: Any
) -> None:
    old, new = uuid4(), uuid4()
    ann = as_user("ann", sid=str(old))
    room, file_id = await sharing.chat.room_of(ann), await sharing.upload(ann)
    newer = keys.token(as_user.id("ann"), sid=str(new))
    async with sharing.chat.connect(ann, (room, 0)) as stream:
        await stream.write(reauthenticate=pb2.ConnectRequest.Reauthenticate(access_token=newer))
        await stream.notice("reauthenticated")
        revoked.add([old], time.time() + 900)
        await stream.write(**send(room, "1", [file_id]))
        assert (await stream.notice("ack")).sequence == 1


async def test_chat_tells_who_may_read_a_file_by_its_rooms(
    sharing: Sharing, as_user: Any, keys: TestKeys, settings: Any, database: Any
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room, other = await sharing.chat.room_of(bob, ann), await sharing.chat.room_of(bob, ann)
    file_id, kept = await sharing.upload(ann), await sharing.upload(ann)
    service = bearer(keys.service_token("parley.chat.v1.ChatService/CheckFileReader"))

    async def may_read(name: str, file_id: str = file_id) -> bool:
        request = pb2.CheckFileReaderRequest(file_id=file_id, user_id=str(as_user.id(name)))
        return (await sharing.chat.stub.CheckFileReader(request, metadata=service)).may_read

    assert not await may_read("bob")
    await sharing.post(room, ann, file_id)
    await sharing.post(other, ann, file_id)
    assert await may_read("bob")
    assert not await may_read("bob", kept)
    assert not await may_read("carol")
    await sharing.chat.leave(room, bob)
    assert await may_read("bob"), "by the other room"
    await sharing.chat.leave(other, bob)
    assert not await may_read("bob")
    await sharing.chat.join(room, bob)
    assert await may_read("bob")
    async with open_chat_jobs(settings(DatabaseSettings)) as jobs:
        (purge,) = jobs
        await purge.run(user_id=str(as_user.id("ann")))
    assert not await may_read("bob"), "the message is gone"
    assert await count_message_files(database) == 0


async def count_message_files(database: Any) -> int:
    async with database.read() as tx:
        return int((await tx.execute(sql("SELECT count(*) FROM chat.message_files"))).scalar_one())


async def test_a_page_of_the_largest_messages_is_what_a_client_takes(chat: Chat, as_user: Any, database: Any) -> None:
    ann = as_user("ann")
    room = await chat.room_of(ann)
    await store_messages(database, room, as_user.id("ann"), 100, "🎉" * 10_000)
    async with database.transaction() as tx:
        await tx.execute(
            sql(
                "UPDATE chat.messages SET client_message_id = lpad(sequence::text, 64, '🎉'),"
                " file_ids = (SELECT array_agg(gen_random_uuid()) FROM generate_series(1, 16))"
            )
        )
    assert len(await chat.messages(room, ann)) == 100
