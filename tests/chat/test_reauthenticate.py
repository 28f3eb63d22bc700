"""Connect goes on past its access token's life for who sends a newer one, and ends for everybody else."""

import asyncio
import time
from typing import Any
from uuid import UUID

import grpc
import pytest
from structlog.testing import capture_logs

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.servicer.renewal import notice_of
from services.kit.ids import uuid7
from tests.support import bearer, raises_status, reason_of, status_of

pytestmark = pytest.mark.slow

LEFT = pb2.Presence.CHANGE_LEFT
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody waits for long: how long the grace is, the kit's tests show."""
    monkeypatch.setattr("services.kit.calls.EXPIRY_GRACE", 0.3)


async def reauthenticate(stream: Any, token: str) -> None:
    await stream.write(reauthenticate=pb2.ConnectRequest.Reauthenticate(access_token=token))


async def read_to_the_end(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


async def reason_at_the_end(call: Any) -> str:
    """What a stream ends with; what still comes before is passed over."""
    async with asyncio.timeout(10):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_the_end(call)
    assert caught.value.code() == UNAUTHENTICATED
    return reason_of(status_of(caught.value))


async def test_a_stream_ends_with_its_token_and_goes_on_with_a_newer_one(chat: Any, as_user: Any, keys: Any) -> None:
    bob, ann_id = as_user("bob"), as_user.id("ann")
    room = await chat.room_of(as_user("ann"), bob)
    expires_at = int(time.time()) + 3
    token = keys.token(ann_id, exp=expires_at)
    watching = chat.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=bearer(token))
    async with (
        chat.connect(bob, (room, 0)) as other,
        chat.connect(bearer(token), (room, 0)) as renewed,
        chat.connect(bearer(token), (room, 0)) as ended,
    ):

        async def talk() -> None:
            """Until both streams have been past the first token's end for a moment."""
            n = 0
            while time.time() < expires_at + 1:
                n += 1
                await chat.send(room, bob, str(n), f"text {n}")
                await asyncio.sleep(0.05)
            await chat.send(room, bob, "last", "last")

        async def renew() -> None:
            assert (await renewed.notice("token_expiring")).expire_time.seconds == expires_at
            assert time.time() < expires_at
            newer = keys.token(ann_id, exp=expires_at + 900)
            await reauthenticate(renewed, newer)
            assert (await renewed.notice("reauthenticated")).expire_time.seconds == expires_at + 900
            while "last" not in renewed.texts:
                response = await renewed.read()
                assert not response.HasField("token_expiring")

        async def let_end() -> float:
            assert (await ended.notice("token_expiring")).expire_time.seconds == expires_at
            assert await reason_at_the_end(ended.call) == "TOKEN_EXPIRED"
            return time.time()

        async def let_watch_end() -> float:
            assert await reason_at_the_end(watching) == "TOKEN_EXPIRED"
            return time.time()

        _, _, *ends = await asyncio.gather(talk(), renew(), let_end(), let_watch_end())
        assert all(expires_at <= end < expires_at + 10 for end in ends)
        assert renewed.sequences == list(range(1, len(renewed.sequences) + 1))
        assert renewed.texts[-1] == "last"
        renewed.call.cancel()
        left = await other.notice("presence", change=LEFT)
        assert left.user_id == str(ann_id)


async def test_a_token_that_is_no_good_is_refused_and_the_stream_goes_on_with_its_own(
    chat: Any, as_user: Any, keys: Any, revoked: Any
) -> None:
    ann = as_user.id("ann")
    session = uuid7()
    revoked.add([session], time.time() + 900)
    bad = {
        "TOKEN_INVALID": keys.token(as_user.id("bob")),
        "TOKEN_EXPIRED": keys.token(ann, exp=int(time.time()) - 1),
        "SESSION_REVOKED": keys.token(ann, sid=str(session)),
        "ACCESS_DENIED": keys.token(ann, scope="service"),
        "VALIDATION_FAILED": "x" * 4097,
    }
    bad_of_ann = {keys.token(ann)[:-9] + "AAAAAAAAA", "nonsense", "Bearer " + keys.token(ann)}
    good = keys.token(ann)
    with capture_logs() as logs:
        async with chat.connect(bearer(good)) as stream:
            for reason, token in [*bad.items(), *(("TOKEN_INVALID", token) for token in bad_of_ann)]:
                await reauthenticate(stream, token)
                nack = await stream.notice("nack")
                assert (nack.room_id, nack.client_message_id, reason_of(nack.status)) == ("", "", reason)
                assert token.encode() not in nack.SerializeToString()
            await stream.write(ping=pb2.ConnectRequest.Ping(nonce=7))
            assert (await stream.notice("pong")).nonce == 7
            revoked.is_complete = False
            await reauthenticate(stream, other := keys.token(ann))
            assert reason_of((await stream.notice("nack")).status) == "DEPENDENCY_UNAVAILABLE"
            revoked.is_complete = True
            await reauthenticate(stream, other)
            await stream.notice("reauthenticated")
            await stream.call.done_writing()
            assert await stream.rest() == ([], grpc.StatusCode.OK)
    assert not [token for token in (*bad.values(), *bad_of_ann, good, other) if token in str(logs)]


async def test_the_client_is_told_once_of_each_token(chat: Any, as_user: Any, keys: Any) -> None:
    told = []
    async with chat.connect(as_user("ann")) as stream:
        now = int(time.time())
        for expires_at in (now + 4, now + 5):  # both sooner than the first
            await reauthenticate(stream, keys.token(as_user.id("ann"), exp=expires_at))
            told.append((await stream.notice("token_expiring")).expire_time.seconds - expires_at)
        await stream.call.done_writing()
        rest, code = await stream.rest()
    assert (told, rest, code) == ([0, 0], [], grpc.StatusCode.OK)


async def test_a_stream_does_not_begin_with_a_newer_token(chat: Any, as_user: Any, keys: Any) -> None:
    async with chat.connect(as_user("ann"), hello=False) as stream:
        await reauthenticate(stream, keys.token(as_user.id("ann")))
        with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "HELLO_EXPECTED"):
            await stream.call.read()


async def test_a_revoked_session_ends_streams_and_the_room_is_told(
    chat: Any, as_user: Any, keys: Any, revoked: Any
) -> None:
    bob, ann_id = as_user("bob"), as_user.id("ann")
    session = uuid7()
    ann = bearer(keys.token(ann_id, sid=str(session)))
    room = await chat.room_of(ann, bob)
    async with chat.connect(bob, (room, 0)) as other, chat.connect(ann, (room, 0)) as stream:
        watching = chat.stub.WatchRoom(pb2.WatchRoomRequest(room_id=room), metadata=ann)
        await watching.read()
        revoked.add([session], time.time() + 900)
        left = await other.notice("presence", change=LEFT)
        assert left.user_id == str(ann_id)
        assert await reason_at_the_end(stream.call) == "SESSION_REVOKED"
        assert await reason_at_the_end(watching) == "SESSION_REVOKED"
        with raises_status(UNAUTHENTICATED, "SESSION_REVOKED"):
            await chat.send(room, ann, "1")
        await chat.send(room, bob, "1")
        assert await other.until(1) == [1]


async def test_a_stream_lasts_as_long_as_the_session_of_the_newest_token(
    chat: Any, as_user: Any, keys: Any, revoked: Any
) -> None:
    def token(session: UUID) -> str:
        return str(keys.token(as_user.id("ann"), sid=str(session)))

    first, second = uuid7(), uuid7()
    async with chat.connect(bearer(token(first))) as stream:
        await reauthenticate(stream, token(second))
        await stream.notice("reauthenticated")
        revoked.add([first], time.time() + 900)
        await stream.write(ping=pb2.ConnectRequest.Ping(nonce=1))
        await stream.notice("pong")
        revoked.add([second], time.time() + 900)
        assert await reason_at_the_end(stream.call) == "SESSION_REVOKED"


def test_a_token_is_told_of_a_minute_before_its_end_or_for_most_of_a_short_life() -> None:
    assert [notice_of(left) for left in (900, 75, 50, 1, -1)] == [60, 60, 40, 0.8, -0.8]
