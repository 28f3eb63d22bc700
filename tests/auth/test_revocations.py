"""Sessions that end before their tokens expire: who follows hears of every one of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from pydantic import ValidationError

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain.revocations import TOPIC, RevocationSource, RevocationWatch, Revoker
from services.auth.domain.signing import SERVICE_TOKEN_LIFE
from services.auth.settings import LONGEST_TOKEN_LIFE, AuthSettings
from services.auth.wiring import open_administration, open_auth
from services.kit.bus import open_bus
from services.kit.database import Database, libpq_url
from services.kit.feed import CaughtUp, FeedLimits, open_feed
from services.kit.ids import utc_now
from tests.auth.people import execute
from tests.auth.suite import sign_up_admin
from tests.conftest import Serve
from tests.support import Metadata, TestKeys, bearer, raises_status

WATCH = "parley.auth.v1.AuthService/WatchRevocations"


@pytest.fixture
async def auth(serve: Serve, settings: Callable[..., Any]) -> AuthServiceStub:
    """A running auth service."""
    return AuthServiceStub(await serve(open_auth, settings(AuthSettings)))


@pytest.fixture
def as_service(keys: TestKeys) -> Metadata:
    """The token of a service that may follow."""
    account = uuid4()
    return bearer(keys.token(account, sid=str(account), scope="service", methods=[WATCH]))


@pytest.fixture
def revoker() -> Revoker:
    """What ends sessions in another process, whose hints get lost."""
    return Revoker(lambda _: None, token_life=timedelta(minutes=15), clock=utc_now)


async def revoke(database: Database, revoker: Revoker, *session_ids: UUID) -> None:
    async with database.transaction() as tx:
        await revoker.revoke(tx, session_ids, uuid4())


async def told(
    watch: AsyncIterator[pb2.WatchRevocationsResponse], until: Callable[[list[str], list[int]], bool]
) -> tuple[list[str], list[int]]:
    """The sessions and sequences that were told, until they are enough."""
    sessions: list[str] = []
    sequences: list[int] = []
    async with asyncio.timeout(10):
        async for response in watch:
            for revocation in response.revocations:
                sessions += revocation.session_ids
                sequences.append(revocation.sequence)
            if until(sessions, sequences):
                break
    return sessions, sequences


async def test_a_follower_gets_what_it_missed_and_then_what_comes(
    auth: AuthServiceStub, as_service: Metadata, database: Database, revoker: Revoker
) -> None:
    before, after = [uuid4() for _ in range(3)], uuid4()
    for session_id in before:
        await revoke(database, revoker, session_id)
    watch = auth.WatchRevocations(pb2.WatchRevocationsRequest(), metadata=as_service)
    first = await anext(aiter(watch))
    assert [list(revocation.session_ids) for revocation in first.revocations] == [[str(id_)] for id_ in before]
    assert (await anext(aiter(watch))).caught_up.sequence == 3
    await revoke(database, revoker, after)
    sessions, sequences = await told(aiter(watch), lambda sessions, _: bool(sessions))
    assert (sessions, sequences) == ([str(after)], [4])
    watch.cancel()


async def test_a_follower_goes_on_from_its_cursor(
    auth: AuthServiceStub, as_service: Metadata, database: Database, revoker: Revoker
) -> None:
    for _ in range(5):
        await revoke(database, revoker, uuid4())
    watch = auth.WatchRevocations(pb2.WatchRevocationsRequest(after_sequence=3), metadata=as_service)
    _, sequences = await told(aiter(watch), lambda _, sequences: 5 in sequences)
    assert sequences == [4, 5]
    watch.cancel()


async def test_a_quiet_stream_gives_signs_of_life(auth: AuthServiceStub, as_service: Metadata) -> None:
    watch = auth.WatchRevocations(pb2.WatchRevocationsRequest(), metadata=as_service)
    async with asyncio.timeout(5):
        signs = [await anext(aiter(watch)) for _ in range(2)]
    assert [sign.WhichOneof("notice") for sign in signs] == ["caught_up", "caught_up"]
    watch.cancel()


async def test_revocations_that_are_no_longer_kept_are_told_as_a_gap(
    auth: AuthServiceStub, as_service: Metadata, database: Database, revoker: Revoker, database_url: str
) -> None:
    for _ in range(4):
        await revoke(database, revoker, uuid4())
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        connection.execute("DELETE FROM auth.revocations WHERE sequence <= 3")
    watch = auth.WatchRevocations(pb2.WatchRevocationsRequest(after_sequence=1), metadata=as_service)
    gap = (await anext(aiter(watch))).gap
    assert (gap.first_sequence, gap.last_sequence) == (2, 3)
    assert [revocation.sequence for revocation in (await anext(aiter(watch))).revocations] == [4]
    watch.cancel()


async def test_a_cursor_that_was_never_given_is_refused(auth: AuthServiceStub, as_service: Metadata) -> None:
    with raises_status(grpc.StatusCode.OUT_OF_RANGE, "CURSOR_INVALID"):
        await anext(aiter(auth.WatchRevocations(pb2.WatchRevocationsRequest(after_sequence=1), metadata=as_service)))


async def test_a_user_with_more_sessions_than_a_message_holds_silences_nobody(
    auth: AuthServiceStub, as_service: Metadata, database: Database, revoker: Revoker
) -> None:
    many, later = [uuid4() for _ in range(120_000)], uuid4()
    begun = auth.WatchRevocations(pb2.WatchRevocationsRequest(), metadata=as_service)
    assert (await anext(aiter(begun))).caught_up.sequence == 0
    await revoke(database, revoker, *many)
    await revoke(database, revoker, later)
    begun_later = auth.WatchRevocations(pb2.WatchRevocationsRequest(), metadata=as_service)
    for watch in (begun, begun_later):
        largest = 0
        sessions: list[str] = []
        async with asyncio.timeout(20):
            async for response in watch:
                largest = max(largest, response.ByteSize())
                assert all(len(revocation.session_ids) <= 1_000 for revocation in response.revocations)
                sessions += [session_id for row in response.revocations for session_id in row.session_ids]
                if str(later) in sessions:
                    break
        assert sessions == [*map(str, many), str(later)]
        assert largest < 2**20
        watch.cancel()


async def test_what_a_process_revokes_in_parts_reaches_who_follows_it_there_at_once(
    settings: Callable[..., Any], database: Database
) -> None:
    """Only the last part is announced: the others are read from the database because of it."""
    async with (
        open_bus(settings(AuthSettings), "auth") as bus,
        open_feed(bus, RevocationSource(database), "revocations", FeedLimits(look_seconds=60)) as feed,
    ):
        watch = RevocationWatch(database, feed).watch(0)
        assert await anext(watch) == CaughtUp(0)
        revoker = Revoker(partial(feed.publish, TOPIC), token_life=timedelta(minutes=15), clock=utc_now)
        ended = [uuid4() for _ in range(2_500)]
        async with database.transaction() as tx:
            revocation = await revoker.revoke(tx, ended, uuid4())
        assert revocation.sequence == 3
        revoker.announce(revocation)
        told: list[UUID] = []
        async with asyncio.timeout(5):
            while len(told) < len(ended):
                item = await anext(watch)
                told += [id_ for row in item for id_ in row.session_ids] if isinstance(item, list | tuple) else []
        assert told == ended
        await watch.aclose()


async def test_a_revocation_outlasts_tokens_of_processes_with_another_setting(
    serve: Serve, settings: Callable[..., Any], database_url: str
) -> None:
    """The operator's command, or auth after a restart, may have another setting than the process that signed."""
    longest = settings(AuthSettings, auth_access_token_seconds=LONGEST_TOKEN_LIFE.total_seconds())
    shortest = settings(AuthSettings, auth_access_token_seconds=1)
    auth = AuthServiceStub(await serve(open_auth, longest, own_keys=True))
    session = await sign_up_admin(auth, database_url)
    async with open_administration(shortest) as admins:
        await admins.remove("root@example.com")
    ((expire_time,),) = execute(database_url, "SELECT expire_time FROM auth.revocations")
    assert expire_time > session.tokens.expire_time.ToDatetime(UTC)


def test_no_token_can_be_set_to_live_for_longer_than_its_revocation(settings: Callable[..., Any]) -> None:
    with pytest.raises(ValidationError, match="less than or equal to 3600"):
        settings(AuthSettings, auth_access_token_seconds=LONGEST_TOKEN_LIFE.total_seconds() + 1)
    assert SERVICE_TOKEN_LIFE <= LONGEST_TOKEN_LIFE
