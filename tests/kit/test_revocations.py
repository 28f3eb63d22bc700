"""A revoked session opens nothing any more, and what it has opened ends."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from grpc import StatusCode

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.access import Caller, TokenVerifier
from services.kit.errors import DependencyUnavailable, SessionRevoked, TokenExpired, TokenInvalid
from services.kit.ids import uuid7
from services.kit.revocations import RevokedSessions
from services.kit.server import running
from tests.kit.authority import eventually
from tests.kit.conftest import (
    FILE_ID,
    KINDS,
    Start,
    call_of_kind,
    connect,
    service_of,
    service_settings,
    started,
)
from tests.support import AUDIENCE, ISSUER, Metadata, TestKeys, bearer, identity_of, raises_status

STREAMS = ("DownloadFile", "UploadFile", "UploadFiles")


@pytest.fixture
def session() -> UUID:
    return uuid7()


@pytest.fixture
def of_session(keys: TestKeys, session: UUID) -> Metadata:
    return bearer(keys.token(uuid4(), sid=str(session)))


def later(seconds: float = 900) -> float:
    return time.time() + seconds


# --- the sessions -----------------------------------------------------------------------------------------------------


def test_a_revoked_session_is_forgotten_when_its_last_token_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("services.kit.revocations.time.time", lambda: now)
    revoked = RevokedSessions()
    short, long, other = uuid7(), uuid7(), uuid7()
    revoked.add([short], now + 10)
    revoked.add([long], now + 10)
    revoked.add([long], now + 20)
    revoked.add([long], now + 5)
    assert short in revoked
    assert long in revoked
    assert other not in revoked
    now += 11
    assert short not in revoked
    assert long in revoked
    now += 10
    revoked.add([other], now + 10)
    assert long not in revoked
    assert len(revoked) == 1


def test_who_subscribes_is_told_of_each_session_until_it_unsubscribes() -> None:
    revoked = RevokedSessions()
    told: list[UUID] = []
    unsubscribe = revoked.subscribe(told.append)
    sessions = [uuid7(), uuid7()]
    revoked.add(sessions, later())
    unsubscribe()
    unsubscribe()
    revoked.add([uuid7()], later())
    assert told == sessions


# --- tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_of_a_revoked_session_is_refused_remembered_or_not(keys: TestKeys, session: UUID) -> None:
    revoked = RevokedSessions()
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, revoked=revoked)
    remembered, new = (keys.token(uuid4(), sid=str(session)) for _ in range(2))
    others = keys.token(uuid4())
    await verifier.verify(remembered)
    await verifier.verify(others)
    revoked.add([session], later())
    for _ in range(2):
        with pytest.raises(SessionRevoked):
            verifier.recall(remembered)
        with pytest.raises(SessionRevoked):
            await verifier.verify(remembered)
        assert verifier.recall(new) is None
        with pytest.raises(SessionRevoked):
            await verifier.verify(new)
    assert verifier.recall(others)


async def test_a_token_that_no_longer_fits_into_memory_is_refused_all_the_same(keys: TestKeys, session: UUID) -> None:
    revoked = RevokedSessions()
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, revoked=revoked, remembered=2)
    tokens = [keys.token(uuid4(), sid=str(session)) for _ in range(4)]
    for token in tokens:
        await verifier.verify(token)
    revoked.add([session], later())
    for token in tokens[:2]:
        assert verifier.recall(token) is None
    for token in tokens[2:]:
        with pytest.raises(SessionRevoked):
            verifier.recall(token)
    for token in tokens:
        with pytest.raises(SessionRevoked):
            await verifier.verify(token)


async def test_the_revocation_of_a_service_ends_with_the_tokens_that_it_was_about(
    keys: TestKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session of a service is its account, which may go on with another secret."""
    now = time.time()
    account = uuid7()
    revoked = RevokedSessions()
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, revoked=revoked)
    old, new = (keys.service_token("a.v1.A/B", account_id=account, exp=int(now + life)) for life in (10, 100))
    await verifier.verify(old)
    revoked.add([account], now + 10)
    with pytest.raises(SessionRevoked):
        await verifier.verify(new)
    monkeypatch.setattr("services.kit.access.time.time", lambda: now + 11)
    assert (await verifier.verify(new)).user_id == account
    with pytest.raises(TokenExpired):
        verifier.recall(old)


async def test_nobody_is_let_in_before_it_is_known_who_was_revoked(keys: TestKeys) -> None:
    revoked = RevokedSessions(is_complete=False)
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, revoked=revoked)
    token = keys.token(uuid4())
    with pytest.raises(DependencyUnavailable):
        await verifier.verify(token)
    with pytest.raises(TokenInvalid):
        await verifier.verify("nonsense")
    revoked.is_complete = True
    await verifier.verify(token)


async def test_a_call_in_the_first_moments_waits_until_it_is_known_who_was_revoked(keys: TestKeys) -> None:
    revoked = RevokedSessions(is_complete=False, patience=10)
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, revoked=revoked)
    good, ended = uuid4(), uuid4()
    calls = [asyncio.create_task(verifier.verify(keys.token(uuid4(), sid=str(session)))) for session in (good, ended)]
    await asyncio.sleep(0.05)
    assert not any(call.done() for call in calls)
    revoked.add([ended], time.time() + 60)
    revoked.is_complete = True
    first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, Caller)
    assert first.session_id == good
    assert isinstance(second, SessionRevoked)


async def test_a_call_waits_only_so_long_for_who_was_revoked(keys: TestKeys) -> None:
    revoked = RevokedSessions(is_complete=False, patience=0.2)
    verifier = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, revoked=revoked)
    for longest in (2.0, 0.1):  # The patience is over by the second time.
        began = time.monotonic()
        with pytest.raises(DependencyUnavailable):
            await verifier.verify(keys.token(uuid4()))
        assert time.monotonic() - began < longest


@pytest.mark.parametrize("name", KINDS)
async def test_a_call_of_any_kind_is_refused_once_its_session_is_revoked(
    start: Start, revoked: RevokedSessions, session: UUID, of_session: Metadata, name: str
) -> None:
    channel = await start()
    await call_of_kind(channel, name, of_session)
    revoked.add([session], later())
    with raises_status(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await call_of_kind(channel, name, of_session)


# --- open streams -----------------------------------------------------------------------------------------------------


class Endless:
    """Handlers that wait for ever, and count who waits."""

    def __init__(self) -> None:
        self.waiting = 0
        self.entered = asyncio.Event()

    async def wait(self, _request: Any, _call: Any) -> None:
        self.waiting += 1
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.waiting -= 1

    async def stream(self, request: Any, call: Any) -> AsyncIterator[Any]:
        await self.wait(request, call)
        yield

    def behaviour(self) -> dict[str, Any]:
        return {name: self.stream if name == "DownloadFile" else self.wait for name in STREAMS}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_of_any_kind_ends_when_its_session_is_revoked(
    start: Start, revoked: RevokedSessions, session: UUID, of_session: Metadata, name: str
) -> None:
    endless = Endless()
    calling = asyncio.create_task(call_of_kind(await start(**endless.behaviour()), name, of_session))
    await asyncio.wait_for(endless.entered.wait(), 5)
    revoked.add([uuid7()], later())
    revoked.add([uuid7(), session], later())
    async with asyncio.timeout(3):
        with raises_status(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
            await calling
    assert endless.waiting == 0


async def test_only_streams_of_the_revoked_session_end(
    start: Start, revoked: RevokedSessions, session: UUID, of_session: Metadata, token: Metadata
) -> None:
    endless = Endless()
    channel = await start(**endless.behaviour())
    ended = [asyncio.create_task(call_of_kind(channel, "DownloadFile", of_session)) for _ in range(3)]
    goes_on = asyncio.create_task(call_of_kind(channel, "DownloadFile", token))
    await eventually(lambda: endless.waiting == 4)
    revoked.add([session], later())
    async with asyncio.timeout(5):
        for error in await asyncio.gather(*ended, return_exceptions=True):
            assert isinstance(error, grpc.aio.AioRpcError)
    assert endless.waiting == 1
    goes_on.cancel()


async def test_a_client_that_neither_writes_nor_half_closes_hears_of_it_within_five_seconds(
    start: Start, revoked: RevokedSessions, session: UUID, of_session: Metadata
) -> None:
    endless = Endless()
    stub = pb2_grpc.FileServiceStub(await start(**endless.behaviour()))
    call = stub.UploadFile(metadata=of_session, timeout=30)
    await call.write(started())
    await asyncio.wait_for(endless.entered.wait(), 5)
    revoked.add([session], later())
    async with asyncio.timeout(4):
        with raises_status(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
            await call


async def test_a_stream_ends_when_the_key_of_its_token_is_gone() -> None:
    keys, endless = TestKeys(), Endless()
    identity = identity_of(keys)
    async with (
        running(service_of(keys, identity=identity, **endless.behaviour()), service_settings(), port=0) as address,
        connect(address) as channel,
    ):
        calls = [asyncio.create_task(call_of_kind(channel, name, bearer(keys.token(uuid4())))) for name in STREAMS]
        await eventually(lambda: endless.waiting == 3)
        identity.verifier.forget_all()  # One of several keys is gone: not the one of these.
        done, _ = await asyncio.wait(calls, timeout=0.2)
        assert not done
        keys.private = TestKeys().private
        identity.verifier.forget_all()
        async with asyncio.timeout(5):
            for call in calls:
                with raises_status(StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"):
                    await call


async def test_the_handler_that_revokes_its_own_session_ends_as_well(
    start: Start, revoked: RevokedSessions, session: UUID, of_session: Metadata
) -> None:
    async def revoke(_request: Any, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        revoked.add([session], later())
        yield pb2.DownloadFileResponse(file=pb2.File(id=FILE_ID))
        await asyncio.Event().wait()

    with raises_status(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await call_of_kind(await start(DownloadFile=revoke), "DownloadFile", of_session)


async def test_a_stream_that_has_ended_leaves_nothing_behind(
    start: Start, revoked: RevokedSessions, session: UUID, of_session: Metadata
) -> None:
    calls: list[Any] = []

    async def keep(_request: Any, call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        calls.append(call)
        yield pb2.DownloadFileResponse(file=pb2.File(id=FILE_ID))

    await call_of_kind(await start(DownloadFile=keep), "DownloadFile", of_session)
    (call,) = calls
    await eventually(lambda: not call._inflight._of_session)
    assert call._expiry.cancelled()
    revoked.add([session], later())
    assert call.ending is None
