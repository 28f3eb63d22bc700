"""Calls between services: always with a token, a deadline, and the request id of the call that they are made for."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode
from structlog.testing import capture_logs

from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.errors import TokenExpired, TokenInvalid
from services.kit.outgoing import CALLER, NoCallInHand, open_channel
from services.kit.server import running
from services.kit.service_tokens import ServiceTokens, open_service_tokens
from tests.kit.authority import Authority, CredentialsInvalid, eventually
from tests.kit.conftest import FILE_ID, KINDS, Start, call_of_kind, connect, service_of, service_settings, started
from tests.support import Metadata, TestKeys, bearer, raises_status


@pytest.fixture
def auth(keys: TestKeys) -> Authority:
    return Authority(keys)


class Callee:
    """The service that is called: it keeps what came with each call, and fails as it is told."""

    def __init__(self, keys: TestKeys) -> None:
        self._keys = keys
        self.seen: list[dict[str, Any]] = []
        self.failures: list[Exception] = []

    def _see(self, call: Any) -> None:
        metadata = dict(call._context.invocation_metadata())
        self.seen.append(metadata | {"left": call.time_remaining(), "request_id": call.request_id})
        if self.failures:
            raise self.failures.pop(0)

    async def _answer(self, _request: Any, call: Any) -> pb2.GetFileResponse:
        self._see(call)
        return pb2.GetFileResponse(file=pb2.File(id=FILE_ID))

    async def _stream(self, _request: Any, call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        self._see(call)
        yield pb2.DownloadFileResponse(file=pb2.File(id=FILE_ID))

    async def _upload(self, _requests: Any, call: Any) -> pb2.UploadFileResponse:
        self._see(call)
        return pb2.UploadFileResponse()

    async def _talk(self, stream: Any, call: Any) -> None:
        self._see(call)
        await stream.send(pb2.UploadFilesResponse(key="a"))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        service = service_of(
            self._keys,
            GetFile=self._answer,
            DownloadFile=self._stream,
            UploadFile=self._upload,
            UploadFiles=self._talk,
        )
        async with running(service, service_settings(), port=0) as address:
            yield address

    def tokens(self) -> list[str]:
        return [seen["authorization"].removeprefix("Bearer ") for seen in self.seen]


@pytest.fixture
def callee(keys: TestKeys, monkeypatch: pytest.MonkeyPatch) -> Callee:
    # Its RPCs are for users: that services may not make them is shown elsewhere.
    monkeypatch.setattr("services.kit.gate.may_call", lambda *_: True)
    return Callee(keys)


@asynccontextmanager
async def service_tokens(address: str) -> AsyncIterator[ServiceTokens]:
    async with (
        connect(address) as channel,
        open_service_tokens(auth_grpc.AuthServiceStub(channel), "file", "secret") as tokens,
    ):
        yield tokens


@asynccontextmanager
async def calling(auth: Authority, callee: Callee) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the callee with the tokens of a service."""
    async with (
        auth.serving() as auth_address,
        callee.serving() as address,
        service_tokens(auth_address) as tokens,
        open_channel(address, identity=tokens) as channel,
    ):
        yield channel


# --- with the token of a service --------------------------------------------------------------------------------------


async def test_calls_of_all_kinds_share_one_token_and_have_a_deadline(auth: Authority, callee: Callee) -> None:
    async with calling(auth, callee) as channel:
        stub = pb2_grpc.FileServiceStub(channel)
        await asyncio.gather(*(stub.GetFile(pb2.GetFileRequest(id=FILE_ID)) for _ in range(20)))
        async for _ in stub.DownloadFile(pb2.DownloadFileRequest(id=FILE_ID)):
            pass
        await stub.UploadFile(iter([started()]))
        async for _ in stub.UploadFiles(iter([started("a")])):
            pass
        for name in KINDS:
            await call_of_kind(channel, name)
    assert len(auth.issued) == 1
    assert set(callee.tokens()) == set(auth.issued)
    left = [seen["left"] for seen in callee.seen]
    # gRPC sends what is left in coarse steps, rounded up.
    assert all(25 < seconds < 31 for seconds in left[:20])
    assert all(3500 < seconds < 3700 for seconds in left[20:23])
    assert all(5 < seconds < 11 for seconds in left[23:])


async def test_a_token_is_renewed_before_it_expires_and_not_while_somebody_waits(
    auth: Authority, callee: Callee
) -> None:
    auth.token_seconds = 1.0
    async with calling(auth, callee) as channel:
        await call_of_kind(channel, "GetFile")
        await eventually(lambda: len(auth.issued) >= 3, 4)
        await call_of_kind(channel, "GetFile")
    first, later = callee.tokens()
    assert first == auth.issued[0]
    assert later in auth.issued[1:]


@pytest.mark.parametrize("failure", [TokenExpired, TokenInvalid])
async def test_a_unary_call_whose_token_was_refused_is_made_once_more_with_a_new_one(
    auth: Authority, callee: Callee, failure: type[Exception]
) -> None:
    callee.failures = [failure()]
    async with calling(auth, callee) as channel:
        await call_of_kind(channel, "GetFile")
        callee.failures = [failure(), failure()]
        with raises_status(StatusCode.UNAUTHENTICATED, cast("Any", failure).reason):
            await call_of_kind(channel, "GetFile")
    assert len(callee.seen) == 4
    assert len(set(callee.tokens())) == 3


@pytest.mark.parametrize("name", ["DownloadFile", "UploadFile", "UploadFiles"])
async def test_a_stream_whose_token_was_refused_fails_and_the_next_has_a_new_one(
    auth: Authority, callee: Callee, name: str
) -> None:
    callee.failures = [TokenExpired()]
    async with calling(auth, callee) as channel:
        with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"):
            await call_of_kind(channel, name)
        await call_of_kind(channel, name)
    assert len(set(callee.tokens())) == 2


async def test_a_call_waits_a_while_for_an_auth_that_is_away(auth: Authority, callee: Callee) -> None:
    async with auth.serving() as auth_address:
        pass
    port = int(auth_address.rsplit(":", 1)[1])
    async with (
        callee.serving() as address,
        service_tokens(auth_address) as tokens,
        open_channel(address, identity=tokens) as channel,
    ):
        stub = pb2_grpc.FileServiceStub(channel)
        with raises_status(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
            await stub.GetFile(pb2.GetFileRequest(id=FILE_ID), timeout=0.3)
        call = asyncio.create_task(call_of_kind(channel, "GetFile"))
        await asyncio.sleep(0.1)
        async with auth.serving(port):
            assert (await call).file.id == FILE_ID


async def test_a_secret_that_auth_refuses_is_said_in_the_log_and_fails_calls_at_once(
    auth: Authority, callee: Callee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.outage.NEWS_AFTER", 0.1)
    auth.failure = CredentialsInvalid()
    with capture_logs() as logs:
        async with calling(auth, callee) as channel:
            for name in KINDS:
                async with asyncio.timeout(2):
                    with raises_status(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
                        await call_of_kind(channel, name)
            await eventually(lambda: [line for line in logs if "PARLEY_SERVICE_SECRET" in line["event"]])
            auth.failure = None
            await eventually(lambda: [line for line in logs if line["event"].startswith("auth takes the secret")])
            await call_of_kind(channel, "GetFile")
    assert not [line for line in logs if "secret" in line.values()]


# --- on behalf of a caller --------------------------------------------------------------------------------------------


@pytest.fixture
async def files(callee: Callee) -> AsyncIterator[pb2_grpc.FileServiceStub]:
    """The callee, as who handles a user's call would call it."""
    async with callee.serving() as address, open_channel(address, identity=CALLER) as channel:
        yield pb2_grpc.FileServiceStub(channel)


def forwarding(files: Any, **timeout: Any) -> Callable[..., Any]:
    async def ask(request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
        response: pb2.GetFileResponse = await files.GetFile(pb2.GetFileRequest(id=request.id), **timeout)
        return response

    return ask


async def test_a_call_on_behalf_of_a_user_has_its_token_request_id_and_deadline(
    start: Start, callee: Callee, files: Any, keys: TestKeys
) -> None:
    channel = await start(GetFile=forwarding(files))
    stub = pb2_grpc.FileServiceStub(channel)
    token = keys.token(uuid4())
    metadata = (*bearer(token), ("x-request-id", "the-request"))
    with capture_logs() as logs:
        await stub.GetFile(pb2.GetFileRequest(id=FILE_ID), metadata=metadata, timeout=5)
    (seen,) = callee.seen
    assert callee.tokens() == [token]
    assert seen["x-request-id"] == seen["request_id"] == "the-request"
    assert 3 < seen["left"] < 5.5
    assert [line["request_id"] for line in logs if line["event"] == "rpc"] == ["the-request"] * 2


async def test_a_call_gets_no_more_time_than_it_asks_for(
    start: Start, callee: Callee, files: Any, token: Metadata
) -> None:
    await call_of_kind(await start(GetFile=forwarding(files, timeout=1)), "GetFile", token)
    assert 0 < callee.seen[0]["left"] < 1.5


async def test_calls_by_tasks_of_a_call_are_on_its_callers_behalf(
    start: Start, callee: Callee, files: Any, token: Metadata
) -> None:
    async def ask_twice(request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(forwarding(files)(request, None))
        return pb2.GetFileResponse()

    await call_of_kind(await start(GetFile=ask_twice), "GetFile", token)
    assert len({seen["request_id"] for seen in callee.seen}) == 1
    assert {("authorization", seen["authorization"]) for seen in callee.seen} == set(token)


async def test_without_a_call_in_hand_there_is_nobody_to_call_on_behalf_of(
    start: Start, callee: Callee, files: Any, token: Metadata
) -> None:
    request = pb2.GetFileRequest(id=FILE_ID)
    with pytest.raises(NoCallInHand):
        await files.GetFile(request, timeout=5)
    release = asyncio.Event()
    outlasting: list[asyncio.Task[Any]] = []

    async def leave_a_task(_request: Any, _call: Any) -> pb2.GetFileResponse:
        async def ask_later() -> None:
            await release.wait()
            await files.GetFile(request, timeout=5)

        outlasting.append(asyncio.create_task(ask_later()))
        return pb2.GetFileResponse()

    await call_of_kind(await start(GetFile=leave_a_task), "GetFile", token)
    release.set()
    with pytest.raises(NoCallInHand):
        await outlasting[0]
    assert callee.seen == []


# --- request ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "x" * 65])
async def test_a_request_id_that_is_none_is_replaced(start: Start, token: Metadata, given: str) -> None:
    seen: list[str] = []

    async def see(_request: Any, call: Any) -> pb2.GetFileResponse:
        seen.append(call.request_id)
        return pb2.GetFileResponse()

    stub = pb2_grpc.FileServiceStub(await start(GetFile=see))
    with capture_logs() as logs:
        metadata = (*token, ("x-request-id", given))
        await stub.GetFile(pb2.GetFileRequest(id=FILE_ID), metadata=metadata, timeout=5)
    assert len(seen[0]) == 32
    assert [line["request_id"] for line in logs if line["event"] == "rpc"] == seen
