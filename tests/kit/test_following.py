"""How a service learns from auth whom to let in, in all that can go wrong between the two."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from services.kit.errors import Unavailable
from services.kit.identity import Identity, Refusal, open_identity, service_secret
from services.kit.ids import utc_now, uuid7
from services.kit.origin import NOWHERE
from services.kit.server import running
from tests.kit.authority import Authority, eventually, settings_for
from tests.kit.conftest import call_of_kind, connect, service_of, service_settings
from tests.support import TestKeys, bearer, raises_status


@pytest.fixture
def auth(keys: TestKeys) -> Authority:
    return Authority(keys)


@asynccontextmanager
async def following(address: str, tmp_path: Path) -> AsyncIterator[Identity]:
    """The identity of a service whose auth is at this address."""
    async with open_identity(settings_for(address, tmp_path), "file") as identity:
        yield identity


def port_of(address: str) -> int:
    return int(address.rsplit(":", 1)[1])


async def test_a_revoked_session_is_known_wherever_revocations_are_followed(auth: Authority, tmp_path: Path) -> None:
    before, after = uuid7(), uuid7()
    await auth.revoke(before)
    async with auth.serving() as address, following(address, tmp_path) as identity:
        await eventually(identity.is_ready)
        assert before in identity.revoked
        await auth.revoke(uuid7(), after)
        await eventually(lambda: after in identity.revoked, 2)
        assert uuid7() not in identity.revoked


async def test_a_service_lets_nobody_in_until_it_has_followed_once_and_goes_on_while_auth_is_away(
    auth: Authority, keys: TestKeys, tmp_path: Path
) -> None:
    async with auth.serving() as address:
        pass  # to have an address that is not served yet
    token = bearer(keys.token(uuid4()))
    async with (
        following(address, tmp_path) as identity,
        running(service_of(keys, identity=identity), service_settings(), port=0) as served,
        connect(served) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        async def is_serving() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        with raises_status(StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
            await call_of_kind(channel, "GetFile", token)
        assert not await is_serving()
        async with auth.serving(port_of(address)):
            await eventually(identity.is_ready)
            await call_of_kind(channel, "GetFile", token)
            assert await is_serving()
        await call_of_kind(channel, "GetFile", token)
        await call_of_kind(channel, "GetFile", bearer(keys.token(uuid4())))  # Its key is known.
        assert await is_serving()


async def test_what_was_revoked_while_auth_was_away_is_known_when_it_is_back(auth: Authority, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with auth.serving() as address:
            identity = await stack.enter_async_context(following(address, tmp_path))
            await auth.revoke(uuid7())
            await eventually(lambda: len(identity.revoked) == 1)
        session = uuid7()
        await auth.revoke(session)
        async with auth.serving(port_of(address)):
            await eventually(lambda: session in identity.revoked)
        assert auth.cursors[0] == 0
        assert auth.cursors[-1] == 1, "it started over, although it had a cursor"


async def test_a_stream_that_falls_silent_is_given_up(
    auth: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.revocations.SILENCE_SECONDS", 0.3)
    auth.is_silent = True
    async with auth.serving() as address, following(address, tmp_path) as identity:
        await eventually(lambda: len(auth.cursors) >= 2)
        assert not identity.is_ready()
        auth.is_silent = False
        await eventually(identity.is_ready)


async def test_a_cursor_beyond_the_end_starts_over(auth: Authority, tmp_path: Path) -> None:
    session = uuid7()
    async with AsyncExitStack() as stack:
        async with auth.serving() as address:
            identity = await stack.enter_async_context(following(address, tmp_path))
            for _ in range(3):
                await auth.revoke(uuid7())
            await eventually(lambda: len(identity.revoked) == 3)
        auth.revocations.clear()  # another database
        await auth.revoke(session)
        async with auth.serving(port_of(address)):
            await eventually(lambda: session in identity.revoked)


async def test_what_is_no_longer_kept_is_passed_over(auth: Authority, tmp_path: Path) -> None:
    old, kept = uuid7(), uuid7()
    await auth.revoke(old)
    await auth.revoke(kept)
    auth.first_kept = 2
    async with auth.serving() as address, following(address, tmp_path) as identity:
        await eventually(identity.is_ready)
        assert kept in identity.revoked
        assert old not in identity.revoked


async def test_what_cannot_be_understood_does_not_stop_the_following(auth: Authority, tmp_path: Path) -> None:
    session = uuid7()
    async with auth.serving() as address, following(address, tmp_path) as identity:
        await eventually(identity.is_ready)
        with capture_logs() as logs:
            await auth.revoke()
            auth.revocations[-1].session_ids.append("nonsense")
            await eventually(lambda: any(line["log_level"] == "error" for line in logs))
        auth.revocations[-1].session_ids[:] = [str(session)]
        await eventually(lambda: session in identity.revoked)


async def test_an_outage_is_told_of_once_and_its_end_once(
    auth: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.outage.NEWS_AFTER", 0.2)

    def told(event: str) -> list[Any]:
        return [line["log_level"] for line in logs if line["event"] == event]

    with capture_logs() as logs:
        async with AsyncExitStack() as stack:
            async with auth.serving() as address:
                identity = await stack.enter_async_context(following(address, tmp_path))
                await eventually(identity.is_ready)
            await eventually(lambda: told("auth does not tell which sessions are revoked"))
            await asyncio.sleep(0.5)  # Time enough to say it again.
            async with auth.serving(port_of(address)):
                await eventually(lambda: told("auth tells again which sessions are revoked"))
    assert told("auth does not tell which sessions are revoked") == ["warning"]
    assert told("auth tells again which sessions are revoked") == ["info"]


async def test_a_refused_call_is_told_to_auth_and_those_that_follow_are_told_as_one(
    auth: Authority, keys: TestKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.refusals.GATHER_SECONDS", 0.1)
    monkeypatch.setattr("services.kit.refusal_tally.PERIOD_SECONDS", 1.0)
    caller, session = uuid7(), uuid7()
    token = keys.token(caller, sid=str(session), scope="service")
    async with (
        auth.serving() as address,
        following(address, tmp_path) as identity,
        running(service_of(keys, identity=identity), service_settings(), port=0) as served,
        connect(served) as channel,
    ):
        await eventually(identity.is_ready)
        for _ in range(3):
            with raises_status(StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"):
                await call_of_kind(channel, "GetFile", bearer(token))
        await eventually(lambda: sum(map(len, auth.recorded)) == 2)
    told = [refusal for batch in auth.recorded for refusal in batch]
    assert [refusal.count for refusal in told] == [1, 2]
    assert told[0].id != told[1].id
    for refusal in told:
        assert refusal.method == "parley.file.v1.FileService/GetFile"
        assert (refusal.subject_id, refusal.session_id) == (str(caller), str(session))
        assert refusal.address == "127.0.0.1"
        assert "grpc" in refusal.user_agent


async def test_what_was_refused_at_last_is_told_before_the_service_ends(
    auth: Authority, keys: TestKeys, tmp_path: Path
) -> None:
    async with auth.serving() as address:
        async with (
            following(address, tmp_path) as identity,
            running(service_of(keys, identity=identity), service_settings(), port=0) as served,
            connect(served) as channel,
        ):
            await eventually(identity.is_ready)
            with pytest.raises(grpc.aio.AioRpcError):
                await call_of_kind(channel, "GetFile", bearer(keys.service_token()))
        assert len(auth.recorded) == 1


async def test_what_auth_would_not_take_any_more_does_not_take_others_with_it(auth: Authority, tmp_path: Path) -> None:
    async with auth.serving() as address, following(address, tmp_path) as identity:
        await eventually(identity.is_ready)
        now, session = utc_now(), uuid7()
        with capture_logs() as logs:
            for age in (timedelta(hours=2), timedelta()):
                identity.on_refusal(Refusal(uuid7(), now - age, "a/B", uuid7(), session, NOWHERE))
            await eventually(lambda: auth.recorded)
        (batch,) = auth.recorded
        assert [refusal.create_time.seconds for refusal in batch] == [int(now.timestamp())]
        (line,) = [line for line in logs if line.get("code") == "too late"]
        assert line["count"] == 1


class AuthAway(Unavailable):
    """Auth cannot take it down now."""

    reason = "DATABASE_UNAVAILABLE"


async def test_refusals_wait_for_auth_up_to_a_bound_and_the_others_are_counted(
    auth: Authority, keys: TestKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.refusals.GATHER_SECONDS", 0.1)
    monkeypatch.setattr("services.kit.refusal_tally.MOST_WAITING", 150)
    taken: list[Any] = []
    async with auth.serving() as address, following(address, tmp_path) as identity:
        await eventually(identity.is_ready)
        auth.failure = AuthAway()
        identity_of_tests = service_of(keys).identity
        async with (
            running(
                service_of(
                    keys,
                    identity=Identity(
                        identity_of_tests.verifier, identity.revoked, identity.is_ready, on_refusal=taken.append
                    ),
                ),
                service_settings(),
                port=0,
            ) as served,
            connect(served) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await call_of_kind(channel, "GetFile", bearer(keys.service_token()))
        with capture_logs() as logs:
            for _ in range(200):
                identity.on_refusal(replace(taken[0], id=uuid7(), subject_id=uuid7()))
            await asyncio.sleep(0.3)
            assert auth.recorded == []
            auth.failure = None
            await eventually(lambda: [line for line in logs if line.get("code") == "too many at once"])
    assert [len(batch) for batch in auth.recorded] == [100, 50]
    (line,) = [line for line in logs if line.get("code") == "too many at once"]
    assert line["count"] == 50


async def test_a_refusal_that_cannot_be_told_is_a_refusal_all_the_same(keys: TestKeys) -> None:
    def fail(_refusal: object) -> None:
        raise RuntimeError

    given = service_of(keys).identity
    identity = Identity(given.verifier, given.revoked, given.is_ready, on_refusal=fail)
    async with (
        running(service_of(keys, identity=identity), service_settings(), port=0) as served,
        connect(served) as channel,
    ):
        with raises_status(StatusCode.PERMISSION_DENIED, "ACCESS_DENIED"):
            await call_of_kind(channel, "GetFile", bearer(keys.service_token()))


def test_the_secret_of_a_service_is_the_setting_or_else_kept_in_the_data_folder(tmp_path: Path) -> None:
    kept = service_secret(settings_for("", tmp_path), "file")
    assert kept == service_secret(settings_for("", tmp_path), "file")
    assert kept != service_secret(settings_for("", tmp_path), "chat")
    assert len(kept) == 43
    assert (tmp_path / "services" / "file.secret").stat().st_mode & 0o777 == 0o600
    assert service_secret(settings_for("", tmp_path, service_secret="given" * 7), "file") == "given" * 7
