"""The life of signing keys: published, activated once every service can have them, retired, gone."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import jwt
import psycopg
import pytest
from google.rpc import error_details_pb2 as details_pb2

from parley.agent.v1 import agent_service_pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import user_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from parley.file.v1 import file_service_pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.auth.settings import LONGEST_TOKEN_LIFE, AuthSettings
from services.auth.wiring import open_auth, open_signing_keys
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.database import libpq_url
from services.kit.ids import utc_now
from services.kit.settings import SettingUnusable
from tests.auth.suite import SignedIn, eventually, outcome, sign_in, sign_up, start
from tests.conftest import Serve
from tests.support import Metadata, detail, raises_status, status_of, until

Code = grpc.StatusCode
State = pb2.SigningKey.State
Make = Callable[..., Any]


@pytest.fixture
async def channel(serve: Serve, settings: Make) -> grpc.aio.Channel:
    return await serve(open_auth, settings(AuthSettings))


@pytest.fixture
def auth(channel: grpc.aio.Channel) -> AuthServiceStub:
    return AuthServiceStub(channel)


@pytest.fixture
def users(channel: grpc.aio.Channel) -> UserServiceStub:
    return UserServiceStub(channel)


@pytest.fixture
def rows(database_url: str) -> Any:
    with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a key waits for, in the same order of size, in under 2 s."""
    monkeypatch.setattr("services.auth.domain.signing_keys.RELOAD_INTERVAL", timedelta(seconds=0.2))
    monkeypatch.setattr("services.auth.domain.key_ring.RELOAD_INTERVAL", timedelta(seconds=0.2))
    monkeypatch.setattr("services.auth.domain.signing_keys.MARGIN", timedelta(seconds=0.6))
    monkeypatch.setattr("services.kit.jwks.REFETCH_INTERVAL", 0.2)


def age(rows: Any, kid: str) -> None:
    """Let a key have been made long enough ago."""
    rows.execute("UPDATE auth.signing_keys SET create_time = create_time - interval '2 minutes' WHERE kid = %s", (kid,))


async def published(auth: AuthServiceStub) -> list[str]:
    return [key.kid for key in (await auth.GetJwks(auth_pb2.GetJwksRequest())).keys]


def kid_of(signed_in: SignedIn) -> str:
    return str(jwt.get_unverified_header(signed_in.tokens.access_token)["kid"])


def audited(rows: Any) -> list[tuple[str, str]]:
    found = rows.execute("SELECT type, details->>'kid' FROM auth.audit_events WHERE type LIKE 'SIGNING%' ORDER BY id")
    return [(kind.removeprefix("SIGNING_KEY_"), kid) for kind, kid in found]


async def test_a_key_is_published_activated_and_retired_in_this_order(
    auth: AuthServiceStub, users: UserServiceStub, as_admin: Metadata, rows: Any
) -> None:
    session = await sign_up(auth)
    first = kid_of(session)
    key = (await users.CreateSigningKey(pb2.CreateSigningKeyRequest(), metadata=as_admin)).signing_key
    assert key.state == State.STATE_PUBLISHED
    assert 60 <= (key.ready_time.ToDatetime() - key.create_time.ToDatetime()).total_seconds() <= 75
    again = (await users.CreateSigningKey(pb2.CreateSigningKeyRequest(), metadata=as_admin)).signing_key
    assert again == key
    assert await published(auth) == [key.kid, first]
    await session.refresh()
    assert kid_of(session) == first

    activate = pb2.ActivateSigningKeyRequest(kid=key.kid)
    with raises_status(Code.FAILED_PRECONDITION, "SIGNING_KEY_TOO_YOUNG"):
        await users.ActivateSigningKey(activate, metadata=as_admin)
    age(rows, key.kid)
    key = (await users.ActivateSigningKey(activate, metadata=as_admin)).signing_key
    assert key.state == State.STATE_ACTIVE
    assert (await users.ActivateSigningKey(activate, metadata=as_admin)).signing_key == key
    await session.refresh()
    assert kid_of(session) == key.kid

    listed = (await users.ListSigningKeys(pb2.ListSigningKeysRequest(), metadata=as_admin)).signing_keys
    assert {each.kid: each.state for each in listed} == {first: State.STATE_RETIRED, key.kid: State.STATE_ACTIVE}
    retired = next(each for each in listed if each.kid == first)
    # What a token lives at the most, and a minute more.
    assert (retired.expire_time.ToDatetime() - retired.retire_time.ToDatetime()).total_seconds() == 3_660
    assert sorted(await published(auth)) == sorted([key.kid, first])
    assert audited(rows) == [
        ("CREATED", first),
        ("ACTIVATED", first),
        ("CREATED", key.kid),
        ("RETIRED", first),
        ("ACTIVATED", key.kid),
    ]


async def test_how_long_a_young_key_still_has_to_wait_is_told(users: UserServiceStub, as_admin: Metadata) -> None:
    key = (await users.CreateSigningKey(pb2.CreateSigningKeyRequest(), metadata=as_admin)).signing_key
    with pytest.raises(grpc.RpcError) as refused:
        await users.ActivateSigningKey(pb2.ActivateSigningKeyRequest(kid=key.kid), metadata=as_admin)
    retry = detail(status_of(refused.value), details_pb2.RetryInfo)
    assert retry is not None
    assert 55 <= retry.retry_delay.seconds <= 70


@pytest.mark.slow
async def test_a_retired_key_stays_until_its_last_token_has_expired(
    auth: AuthServiceStub, users: UserServiceStub, as_admin: Metadata, rows: Any
) -> None:
    first = kid_of(await sign_up(auth))
    key = (await users.CreateSigningKey(pb2.CreateSigningKeyRequest(), metadata=as_admin)).signing_key
    with raises_status(Code.FAILED_PRECONDITION, "SIGNING_KEY_ACTIVE"):
        await users.RetireSigningKey(pb2.RetireSigningKeyRequest(kid=first, immediately=True), metadata=as_admin)
    age(rows, key.kid)
    await users.ActivateSigningKey(pb2.ActivateSigningKeyRequest(kid=key.kid), metadata=as_admin)
    with raises_status(Code.FAILED_PRECONDITION, "SIGNING_KEY_RETIRED"):
        await users.ActivateSigningKey(pb2.ActivateSigningKeyRequest(kid=first), metadata=as_admin)
    again = await users.RetireSigningKey(pb2.RetireSigningKeyRequest(kid=first), metadata=as_admin)
    assert again.signing_key.state == State.STATE_RETIRED
    # At its expire_time it is out of the JWKS, whether the row is still there or not.
    rows.execute("UPDATE auth.signing_keys SET expire_time = now() WHERE kid = %s", (first,))

    async def is_gone() -> bool:
        return first not in await published(auth)

    await eventually(is_gone)
    with raises_status(Code.NOT_FOUND, "SIGNING_KEY_NOT_FOUND"):
        await users.RetireSigningKey(pb2.RetireSigningKeyRequest(kid=first), metadata=as_admin)


async def test_a_retired_key_outlasts_tokens_of_processes_with_another_setting(settings: Make, rows: Any) -> None:
    async with open_signing_keys(settings(AuthSettings, auth_access_token_seconds=1)) as keys:
        await keys.make_first()
        key = await keys.create_signing_key()
        age(rows, key.kid)
        began = utc_now()
        await keys.activate_signing_key(key.kid)
    ((expire_time,),) = rows.execute("SELECT expire_time FROM auth.signing_keys WHERE retire_time IS NOT NULL")
    assert expire_time > began + LONGEST_TOKEN_LIFE


async def test_a_key_that_never_signed_goes_at_once(
    auth: AuthServiceStub, users: UserServiceStub, as_admin: Metadata
) -> None:
    key = (await users.CreateSigningKey(pb2.CreateSigningKeyRequest(), metadata=as_admin)).signing_key
    gone = await users.RetireSigningKey(pb2.RetireSigningKeyRequest(kid=key.kid), metadata=as_admin)
    assert not gone.HasField("signing_key")
    assert key.kid not in await published(auth)
    with raises_status(Code.NOT_FOUND, "SIGNING_KEY_NOT_FOUND"):
        await users.ActivateSigningKey(pb2.ActivateSigningKeyRequest(kid=key.kid), metadata=as_admin)


async def test_any_number_of_servers_make_one_first_key_and_take_each_others_tokens(settings: Make) -> None:
    async with AsyncExitStack() as stack:
        servers = [await start(stack, open_auth, settings(AuthSettings)) for _ in range(3)]
        stubs = [AuthServiceStub(server.channel) for server in servers]
        kids = await asyncio.gather(*(published(stub) for stub in stubs))
        assert len({kid for found in kids for kid in found}) == 1
        session = await sign_up(stubs[0])
        for stub in stubs:
            await stub.GetCurrentUser(auth_pb2.GetCurrentUserRequest(), metadata=session.metadata)


async def test_who_has_another_secret_than_auth_makes_no_key(
    auth: AuthServiceStub, settings: Make, tmp_path: Any
) -> None:
    await published(auth)
    elsewhere = settings(AuthSettings, data_dir=tmp_path / "elsewhere")
    with pytest.raises(SettingUnusable, match="PARLEY_AUTH_SECRET_KEY"):
        async with open_signing_keys(elsewhere) as keys:
            await keys.create_signing_key()


async def test_a_service_that_was_broken_into_cannot_hold_up_a_change_of_keys(
    users: UserServiceStub, as_admin: Metadata, database_url: str
) -> None:
    with psycopg.connect(libpq_url(database_url), options="-c role=parley_chat") as broken_into:
        for statement in ("LOCK TABLE auth.signing_keys", "SELECT kid FROM auth.signing_keys FOR UPDATE"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), broken_into.transaction():
                broken_into.execute(statement)
        # A number that anybody can take, and that was once what changes of keys waited for.
        broken_into.execute("SELECT pg_advisory_xact_lock(1886086521)")
        made = await users.CreateSigningKey(pb2.CreateSigningKeyRequest(), metadata=as_admin, timeout=5)
    assert made.signing_key.kid


class Traffic:
    """Clients that refresh and call without a pause, and what they were refused with."""

    def __init__(self) -> None:
        self.calls = 0
        self.refused: list[str] = []
        self.kids: set[str] = set()
        self._over = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, work: Callable[[], Any]) -> None:
        async def work_on() -> None:
            while not self._over.is_set():
                try:
                    await work()
                    self.calls += 1
                except grpc.RpcError as error:
                    self.refused.append(repr(error))

        self._tasks.append(asyncio.create_task(work_on()))

    async def end(self) -> None:
        self._over.set()
        await asyncio.gather(*self._tasks)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
async def test_no_valid_token_is_refused_while_keys_rotate_under_load(settings: Make, stack: AsyncExitStack) -> None:
    own = {"auth_jwks_seconds": 1, "database_pool_size": 4}
    auth_servers = [await start(stack, open_auth, settings(AuthSettings, **own)) for _ in range(2)]
    auths = [AuthServiceStub(server.channel) for server in auth_servers]
    at = [{"auth_target": server.address, "database_pool_size": 3} for server in auth_servers]
    agents = AgentServiceStub((await start(stack, open_agent, settings(AgentSettings, **at[0]))).channel)
    files = FileServiceStub((await start(stack, open_file, settings(FileSettings, **at[1]))).channel)
    traffic = Traffic()
    lasting = await sign_up(auths[0])
    old_token = lasting.metadata
    sessions = [await sign_in(auths[index % 2]) for index in range(4)]

    async def everywhere(metadata: Metadata) -> None:
        await agents.ListAgents(agent_service_pb2.ListAgentsRequest(), metadata=metadata)
        await files.ListFiles(file_service_pb2.ListFilesRequest(), metadata=metadata)
        for auth in auths:
            await auth.GetCurrentUser(auth_pb2.GetCurrentUserRequest(), metadata=metadata)

    def client(index: int) -> Callable[[], Any]:
        async def use_a_fresh_token() -> None:
            turn = traffic.calls % 2
            metadata = await sessions[index].refresh(auths[turn])
            traffic.kids.add(kid_of(sessions[index]))
            await everywhere(metadata)

        return use_a_fresh_token

    for index in range(len(sessions)):
        traffic.add(client(index))
    traffic.add(lambda: everywhere(old_token))
    made = []
    async with open_signing_keys(settings(AuthSettings, **own)) as keys:
        for _ in range(2):
            key = await keys.create_signing_key()
            await asyncio.sleep((keys.ready_time(key) - utc_now()).total_seconds())  # what a key has to wait
            made.append((await keys.activate_signing_key(key.kid)).kid)
    await until(lambda: made[-1] in traffic.kids)
    await traffic.end()
    assert traffic.refused == []
    assert traffic.kids >= set(made)
    assert len(traffic.kids) == 3
    assert traffic.calls > 20


@pytest.mark.usefixtures("quick")
async def test_a_key_that_somebody_else_may_have_is_replaced_everywhere(settings: Make, stack: AsyncExitStack) -> None:
    own = settings(AuthSettings, auth_jwks_seconds=1)
    auth_server = await start(stack, open_auth, own)
    auth = AuthServiceStub(auth_server.channel)
    agents = AgentServiceStub(
        (await start(stack, open_agent, settings(AgentSettings, auth_target=auth_server.address))).channel
    )
    session = await sign_up(auth)
    old = session.metadata
    await agents.ListAgents(agent_service_pb2.ListAgentsRequest(), metadata=old)
    async with open_signing_keys(own) as keys:
        await keys.replace_signing_keys()

    list_agents, request = agents.ListAgents, agent_service_pb2.ListAgentsRequest()
    get_user, me = auth.GetCurrentUser, auth_pb2.GetCurrentUserRequest()

    async def old_is_refused() -> bool:
        found = [await outcome(list_agents(request, metadata=old)), await outcome(get_user(me, metadata=old))]
        return found == ["TOKEN_INVALID"] * 2

    began = time.monotonic()
    await eventually(old_is_refused)
    assert time.monotonic() - began < 5

    # Whoever is signed in goes on by refreshing.
    new = await session.refresh()

    async def new_is_taken() -> bool:
        return await outcome(list_agents(request, metadata=new)) == "OK"

    await eventually(new_is_taken)
