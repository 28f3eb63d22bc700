"""A stream lives as long as its token, or as the one that renews it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from parley.file.v1 import file_service_pb2 as pb2
from services.kit.errors import AccessDenied, DomainError, ShuttingDown, TokenExpired, TokenInvalid
from services.kit.ids import uuid7
from services.kit.revocations import RevokedSessions
from tests.kit.conftest import FILE_ID, Start, call_of_kind
from tests.support import TestKeys, bearer, raises_status

pytestmark = pytest.mark.slow

STREAMS = ("DownloadFile", "UploadFile", "UploadFiles")
USER = uuid4()


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.calls.EXPIRY_GRACE", 0.2)


def soon_expired(keys: TestKeys) -> str:
    """A token that is good for 1 to 2 seconds."""
    return keys.token(USER, exp=int(time.time()) + 2)


async def test_a_stream_of_any_kind_ends_soon_after_its_token_has_expired(start: Start, keys: TestKeys) -> None:
    async def wait(_request: Any, _call: Any) -> None:
        await asyncio.Event().wait()

    async def stream(_request: Any, _call: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    token = bearer(soon_expired(keys))
    channel = await start(**{name: stream if name == "DownloadFile" else wait for name in STREAMS})
    calls = [asyncio.create_task(call_of_kind(channel, name, token)) for name in STREAMS]
    async with asyncio.timeout(5):
        for call in calls:
            with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"):
                await call


class Renewed:
    """A stream that renews its token with the ones given, and then goes on for a while."""

    def __init__(self, *tokens: str, seconds: float = 0.0) -> None:
        self._tokens = tokens
        self._seconds = seconds
        self.met: list[object] = []
        self.renewed = asyncio.Event()

    async def __call__(self, _request: Any, call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        for token in self._tokens:
            try:
                self.met.append(await call.reauthenticate(token))
            except DomainError as failure:
                self.met.append(type(failure))
        self.renewed.set()
        await asyncio.sleep(self._seconds)
        yield pb2.DownloadFileResponse(file=pb2.File(id=FILE_ID))


async def test_a_stream_ends_with_the_last_token_that_it_was_renewed_with(start: Start, keys: TestKeys) -> None:
    lengthened = await start(DownloadFile=Renewed(keys.token(USER), seconds=2.5))
    shortened = await start(DownloadFile=Renewed(soon_expired(keys), seconds=10))
    goes_on = asyncio.create_task(call_of_kind(lengthened, "DownloadFile", bearer(soon_expired(keys))))
    async with asyncio.timeout(5):
        with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"):
            await call_of_kind(shortened, "DownloadFile", bearer(keys.token(USER)))
        assert (await goes_on).file.id == FILE_ID


async def test_a_stream_is_renewed_only_by_a_good_token_of_the_same_user(start: Start, keys: TestKeys) -> None:
    session = uuid7()
    renewed = Renewed(
        keys.token(uuid4()),
        "nonsense",
        keys.token(USER, exp=int(time.time()) - 1),
        keys.service_token("parley.file.v1.FileService/*", account_id=USER),
        keys.token(USER, sid=str(session)),
    )
    await call_of_kind(await start(DownloadFile=renewed), "DownloadFile", bearer(keys.token(USER)))
    *failures, caller = renewed.met
    assert failures == [TokenInvalid, TokenInvalid, TokenExpired, AccessDenied]
    assert getattr(caller, "session_id", None) == session


async def test_a_renewed_stream_ends_with_its_new_session_and_not_with_the_old(
    start: Start, keys: TestKeys, revoked: RevokedSessions
) -> None:
    old, new = uuid7(), uuid7()

    def token(session: UUID) -> str:
        return keys.token(USER, sid=str(session))

    renewed = Renewed(token(new), seconds=10)
    channel = await start(DownloadFile=renewed)
    calling = asyncio.create_task(call_of_kind(channel, "DownloadFile", bearer(token(old))))
    await asyncio.wait_for(renewed.renewed.wait(), 5)
    revoked.add([old], time.time() + 900)
    done, _ = await asyncio.wait((calling,), timeout=0.2)
    assert not done
    revoked.add([new], time.time() + 900)
    async with asyncio.timeout(3):
        with raises_status(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
            await calling


async def test_the_first_reason_to_end_a_call_is_the_one_that_its_client_sees(start: Start, keys: TestKeys) -> None:
    async def end_twice(_request: Any, call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        call.end(TokenExpired())
        call.end(ShuttingDown())
        await asyncio.Event().wait()
        yield pb2.DownloadFileResponse()

    with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"):
        await call_of_kind(await start(DownloadFile=end_twice), "DownloadFile", bearer(keys.token(USER)))


async def test_a_call_that_ends_by_itself_before_it_is_cut_off_is_answered(start: Start, keys: TestKeys) -> None:
    async def end_and_answer(_request: Any, call: Any) -> pb2.UploadFileResponse:
        call.end(ShuttingDown())
        return pb2.UploadFileResponse(file=pb2.File(id=FILE_ID))

    answer = await call_of_kind(await start(UploadFile=end_and_answer), "UploadFile", bearer(keys.token(USER)))
    assert answer.file.id == FILE_ID
