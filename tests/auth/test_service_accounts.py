"""The accounts of services: what their secrets are good for, and for how long."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import grpc
import jwt
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError
from structlog.testing import capture_logs

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import user_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from services.auth.domain.service_accounts import ServiceAccounts
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.kit.access import MAX_TOKEN_BYTES
from services.kit.database import libpq_url
from services.kit.identity import service_secret
from services.kit.ids import uuid7
from services.kit.server import running
from services.kit.settings import ServiceSettings
from tests.auth.suite import SignedIn, outcome, sign_up, sign_up_admin, start
from tests.conftest import Serve
from tests.support import Metadata, TestKeys, bearer, raises_status, until

Code = grpc.StatusCode
Make = Callable[..., Any]
AUTH = "parley.auth.v1.AuthService"
WATCH, RECORD = f"{AUTH}/WatchRevocations", f"{AUTH}/RecordRefusals"


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
def create(users: UserServiceStub, as_admin: Metadata) -> Make:
    """Makes an account: it, and its secret."""

    async def create(name: str = "reports", *methods: str) -> tuple[pb2.ServiceAccount, str]:
        request = pb2.CreateServiceAccountRequest(name=name, methods=methods or (WATCH,))
        created = await users.CreateServiceAccount(request, metadata=as_admin)
        return created.service_account, created.client_secret

    return create


async def token(auth: AuthServiceStub, name: str, secret: str) -> auth_pb2.IssueServiceTokenResponse:
    return await auth.IssueServiceToken(auth_pb2.IssueServiceTokenRequest(client_id=name, client_secret=secret))


def a_refusal(who: UUID, session: UUID, **changed: Any) -> auth_pb2.RecordRefusalsRequest.Refusal:
    fields: dict[str, Any] = {
        "id": str(uuid7()),
        "create_time": Timestamp(seconds=int(time.time())),
        "method": "parley.agent.v1.AgentService/GetAgent",
        "subject_id": str(who),
        "session_id": str(session),
        "address": "192.0.2.7",
        "user_agent": "tests",
    }
    return auth_pb2.RecordRefusalsRequest.Refusal(**fields | changed)


def audited(rows: Any, like: str = "SERVICE%") -> list[tuple[str, str | None]]:
    found = rows.execute(
        "SELECT type, details->>'name' FROM auth.audit_events"
        " WHERE type LIKE %s AND coalesce(details->>'name', '') NOT IN ('agent', 'file', 'chat') ORDER BY id",
        (like,),
    )
    return [(kind, name) for kind, name in found]


async def test_a_secret_gives_a_token_that_opens_what_the_account_lists(
    auth: AuthServiceStub, create: Make, rows: Any
) -> None:
    account, secret = await create("reports", WATCH, f"{AUTH}/*")
    answer = await token(auth, "reports", secret)
    claims = jwt.decode(answer.access_token, options={"verify_signature": False})
    assert claims["sub"] == claims["sid"] == account.id
    assert (claims["client_id"], claims["scope"], claims["methods"]) == ("reports", "service", [WATCH, f"{AUTH}/*"])
    assert claims["exp"] - claims["iat"] == 300
    assert answer.expire_time.seconds == claims["exp"]
    assert answer.token_type == "Bearer"
    assert audited(rows) == [("SERVICE_ACCOUNT_CREATED", "reports"), ("SERVICE_SIGNED_IN", "reports")]


async def test_only_a_hash_of_the_secret_is_kept(create: Make, rows: Any) -> None:
    _, secret = await create()
    (count,) = rows.execute(
        "SELECT count(*) FROM auth.service_secrets s, auth.audit_events e, auth.service_accounts a"
        " WHERE (s::text || e::text || a::text) LIKE %s",
        (f"%{secret}%",),
    ).fetchone()
    assert count == 0
    assert len(secret) == 43


async def test_an_unknown_name_and_a_wrong_secret_are_refused_alike_and_taken_down(
    auth: AuthServiceStub, create: Make, rows: Any
) -> None:
    _, secret = await create()
    _, other_secret = await create("others")
    for name, wrong in (("nobody", secret), ("reports", other_secret), ("reports", "x")):
        with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
            await token(auth, name, wrong)
    failed = audited(rows, "SERVICE_SIGN_IN_FAILED")
    # A name that is none of ours may be anything, such as a secret in the wrong field.
    assert failed == [("SERVICE_SIGN_IN_FAILED", name) for name in (None, "reports", "reports")]


async def test_wrong_secrets_hold_up_nobody_who_has_the_right_one_and_do_not_fill_the_audit_log(
    auth: AuthServiceStub, create: Make, rows: Any
) -> None:
    _, secret = await create()
    wrong = await asyncio.gather(*(outcome(token(auth, "reports", f"wrong {count}")) for count in range(40)))
    assert set(wrong) == {"CREDENTIALS_INVALID"}
    assert (await token(auth, "reports", secret)).access_token
    assert 1 <= len(audited(rows, "SERVICE_SIGN_IN_FAILED")) <= 10


async def test_two_secrets_are_good_while_they_are_rotated_and_never_three(
    auth: AuthServiceStub, users: UserServiceStub, create: Make, as_admin: Metadata, rows: Any
) -> None:
    account, first = await create()

    async def rotate(overlap: Duration | None = None) -> tuple[str, list[bool]]:
        request = pb2.RotateServiceAccountSecretRequest(service_account_id=account.id, overlap=overlap)
        rotated = await users.RotateServiceAccountSecret(request, metadata=as_admin)
        ends = [secret.HasField("expire_time") for secret in rotated.service_account.secrets]
        return rotated.client_secret, ends

    second, ends = await rotate()
    assert ends == [False, True]
    for secret in (first, second):
        await token(auth, "reports", secret)
    third, ends = await rotate()
    assert ends == [False, True]
    assert await outcome(token(auth, "reports", first)) == "CREDENTIALS_INVALID"
    for secret in (second, third):
        await token(auth, "reports", secret)
    fourth, ends = await rotate(Duration())
    assert ends == [False]
    assert await outcome(token(auth, "reports", third)) == "CREDENTIALS_INVALID"
    await token(auth, "reports", fourth)
    assert audited(rows, "SERVICE_SECRET%") == [("SERVICE_SECRET_ROTATED", "reports")] * 3


async def test_an_older_secret_is_good_until_it_expires(
    auth: AuthServiceStub, users: UserServiceStub, create: Make, as_admin: Metadata, rows: Any
) -> None:
    account, first = await create()
    request = pb2.RotateServiceAccountSecretRequest(service_account_id=account.id)
    rotated = (await users.RotateServiceAccountSecret(request, metadata=as_admin)).service_account
    newest, older = rotated.secrets
    assert older.expire_time.seconds - newest.create_time.seconds == 24 * 3600
    rows.execute("UPDATE auth.service_secrets SET expire_time = now() WHERE expire_time IS NOT NULL")
    assert await outcome(token(auth, "reports", first)) == "CREDENTIALS_INVALID"
    listed = await users.ListServiceAccounts(pb2.ListServiceAccountsRequest(page_size=1), metadata=as_admin)
    assert [len(account.secrets) for account in listed.service_accounts] == [1]


async def test_rotations_at_once_leave_two_secrets(
    users: UserServiceStub, create: Make, as_admin: Metadata, rows: Any
) -> None:
    account, _ = await create()
    request = pb2.RotateServiceAccountSecretRequest(service_account_id=account.id)
    await asyncio.gather(*(users.RotateServiceAccountSecret(request, metadata=as_admin) for _ in range(10)))
    found = rows.execute(
        "SELECT count(*), count(expire_time) FROM auth.service_secrets WHERE service_account_id = %s", (account.id,)
    ).fetchone()
    assert found == (2, 1)


async def test_names_are_taken_once_and_accounts_are_listed_in_pages(
    users: UserServiceStub, create: Make, as_admin: Metadata, rows: Any
) -> None:
    await until(lambda: rows.execute("SELECT count(*) FROM auth.service_accounts").fetchone() == (3,))
    for name in ("one", "two"):
        await create(name)
    with raises_status(Code.ALREADY_EXISTS, "SERVICE_ACCOUNT_EXISTS"):
        await create("one")
    names, page_token = [], ""
    while True:
        request = pb2.ListServiceAccountsRequest(page_size=2, page_token=page_token)
        page = await users.ListServiceAccounts(request, metadata=as_admin)
        assert page.total_size == 5
        names += [account.name for account in page.service_accounts]
        page_token = page.next_page_token
        if not page_token:
            break
    assert names[:2] == ["two", "one"]
    assert sorted(names[2:]) == ["agent", "chat", "file"]


async def test_as_many_methods_as_an_account_takes_fit_into_a_token(auth: AuthServiceStub, create: Make) -> None:
    methods = [f"a.v1.{'S' * 40}/{'M' * (60 + count)}" for count in range(22)]
    while sum(map(len, methods)) > 2_250:
        methods.pop()
    name = "n" * 64
    _, secret = await create(name, *methods)
    assert len((await token(auth, name, secret)).access_token) <= MAX_TOKEN_BYTES
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["methods"]):
        await create("too-many", *methods, f"b.v1.{'S' * 90}/{'M' * 90}")


async def test_tokens_of_a_removed_account_are_refused_and_its_streams_end(settings: Make, database_url: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = [await start(stack, open_auth, settings(AuthSettings)) for _ in range(2)]
        auth, users = AuthServiceStub(other.channel), UserServiceStub(one.channel)
        secret = service_secret(settings(ServiceSettings), "agent")
        as_agent = bearer((await token(auth, "agent", secret)).access_token)
        watch = aiter(auth.WatchRevocations(auth_pb2.WatchRevocationsRequest(), metadata=as_agent))
        assert (await anext(watch)).HasField("caught_up")
        admin = (await sign_up_admin(auth, database_url)).metadata
        listed = (await users.ListServiceAccounts(pb2.ListServiceAccountsRequest(), metadata=admin)).service_accounts
        (account_id,) = [account.id for account in listed if account.name == "agent"]
        removal = pb2.DeleteServiceAccountRequest(service_account_id=account_id)
        await users.DeleteServiceAccount(removal, metadata=admin)
        with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
            async with asyncio.timeout(5):
                async for _ in watch:
                    pass
        with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
            await anext(aiter(auth.WatchRevocations(auth_pb2.WatchRevocationsRequest(), metadata=as_agent)))
        assert await outcome(token(auth, "agent", secret)) == "CREDENTIALS_INVALID"
        with raises_status(Code.NOT_FOUND, "SERVICE_ACCOUNT_NOT_FOUND"):
            await users.DeleteServiceAccount(removal, metadata=admin)


async def test_the_services_of_parley_have_accounts_from_the_start(settings: Make, rows: Any) -> None:
    async with AsyncExitStack() as stack:
        servers = await asyncio.gather(*(start(stack, open_auth, settings(AuthSettings)) for _ in range(3)))
        for name in ("agent", "file", "chat"):
            secret = service_secret(settings(ServiceSettings), name)
            assert (await token(AuthServiceStub(servers[0].channel), name, secret)).access_token
    found = rows.execute("SELECT name, methods FROM auth.service_accounts ORDER BY name").fetchall()
    ask = ["parley.agent.v1.ExecutionService/CheckFileReader", "parley.chat.v1.ChatService/CheckFileReader"]
    assert found == [("agent", [WATCH, RECORD]), ("chat", [WATCH, RECORD]), ("file", [WATCH, RECORD, *ask])]
    assert rows.execute("SELECT count(*) FROM auth.service_secrets").fetchone() == (3,)


async def test_who_comes_before_its_account_is_made_is_asked_to_come_again_and_is_no_alarm(
    settings: Make, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = asyncio.Event()
    ensure = ServiceAccounts.ensure_built_in

    async def held_up(accounts: ServiceAccounts, name: str, secret: str) -> None:
        await may_go_on.wait()
        await ensure(accounts, name, secret)

    monkeypatch.setattr(ServiceAccounts, "ensure_built_in", held_up)
    async with (
        open_auth(settings(AuthSettings)) as service,
        running(service, settings(AuthSettings), port=0) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        auth, secret = AuthServiceStub(channel), service_secret(settings(ServiceSettings), "agent")
        await until(service.identity.is_ready)
        for wrong in (secret, "x"):
            with raises_status(Code.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
                await token(auth, "agent", wrong)
        may_go_on.set()
        await until(service.is_ready)
        assert (await token(auth, "agent", secret)).access_token
        with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
            await token(auth, "nobody", secret)
    assert audited(rows, "SERVICE_SIGN_IN_FAILED") == [("SERVICE_SIGN_IN_FAILED", None)]


async def test_a_secret_that_is_set_anew_is_taken_beside_the_one_before(settings: Make) -> None:
    first, second = (f"agent={letter * 40},file={letter.upper() * 40}" for letter in "ab")
    for given in (first, second, second):
        async with AsyncExitStack() as stack:
            await start(stack, open_auth, settings(AuthSettings, auth_service_secrets=given))
    async with AsyncExitStack() as stack:
        server = await start(stack, open_auth, settings(AuthSettings, auth_service_secrets=second))
        auth = AuthServiceStub(server.channel)
        assert (await token(auth, "agent", "a" * 40)).access_token
        assert (await token(auth, "agent", "b" * 40)).access_token
        assert await outcome(token(auth, "agent", "c" * 40)) == "CREDENTIALS_INVALID"


@pytest.mark.parametrize("secrets", ["agent=short", "agent", f"agent={'a' * 40},file={'a' * 40}"])
def test_secrets_that_are_short_or_shared_are_no_setting(settings: Make, secrets: str) -> None:
    with pytest.raises(ValidationError, match="each with a secret of its own"):
        settings(AuthSettings, auth_service_secrets=secrets)


@pytest.mark.parametrize("secrets", [f"agnet={'a' * 40}", f"auth={'a' * 40}", f"chat={'a' * 40}, chat={'b' * 40}"])
def test_secrets_of_services_that_do_not_exist_or_have_one_are_no_setting(settings: Make, secrets: str) -> None:
    with pytest.raises(ValidationError, match="must name each of agent, file, chat at most once"):
        settings(AuthSettings, auth_service_secrets=secrets)


def test_a_session_does_not_end_before_it_would_without_a_refresh(settings: Make) -> None:
    settings(AuthSettings, auth_session_days=30, auth_session_max_days=30)
    with pytest.raises(ValidationError, match="must not be less than PARLEY_AUTH_SESSION_DAYS"):
        settings(AuthSettings, auth_session_days=30, auth_session_max_days=29)


async def test_refusals_that_services_tell_are_taken_down_once(
    auth: AuthServiceStub, keys: TestKeys, rows: Any
) -> None:
    as_service = bearer(keys.service_token(RECORD))
    who, session, made = uuid4(), uuid4(), int(time.time()) - 60
    told, later = (a_refusal(who, session, create_time=Timestamp(seconds=made), count=7) for _ in range(2))
    with capture_logs() as logs:
        for refusals in ([told], [told, told], [told, later]):
            await auth.RecordRefusals(auth_pb2.RecordRefusalsRequest(refusals=refusals), metadata=as_service)
    assert [line["event"] for line in logs if line.get("actor_id") == str(who)] == ["audit", "audit"]
    found = rows.execute(
        "SELECT actor_id, session_id, address, user_agent, details, extract(epoch FROM create_time)::bigint"
        " FROM auth.audit_events WHERE type = 'ACCESS_REFUSED'"
    ).fetchall()
    details = {"method": "parley.agent.v1.AgentService/GetAgent", "calls": "7"}
    assert found == [(who, session, "192.0.2.7", "tests", details, made)] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "6f1c1d0e-3c52-4b1e-9c5c-0a4f3b8d2e71"),
        ("create_time", Timestamp(seconds=10**15)),
        ("create_time", Timestamp(seconds=1_700_000_000)),
        ("create_time", Timestamp(seconds=int(time.time()), nanos=-1)),
        ("create_time", Timestamp(seconds=int(time.time()) + 7_200)),
        ("address", "nowhere"),
        ("address", "fe80::1%what-somebody-says"),
    ],
)
async def test_a_refusal_that_would_spoil_the_audit_log_is_not_taken_down(
    auth: AuthServiceStub, keys: TestKeys, rows: Any, field: str, value: Any
) -> None:
    good, bad = (a_refusal(uuid4(), uuid4(), **changed) for changed in ({}, {field: value}))
    with raises_status(Code.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[f"refusals[1].{field}"]):
        await auth.RecordRefusals(
            auth_pb2.RecordRefusalsRequest(refusals=[good, bad]), metadata=bearer(keys.service_token(RECORD))
        )
    assert audited(rows, "ACCESS_REFUSED") == []


async def test_a_refusal_of_a_caller_without_an_address_is_taken_down(
    auth: AuthServiceStub, keys: TestKeys, rows: Any
) -> None:
    request = auth_pb2.RecordRefusalsRequest(refusals=[a_refusal(uuid4(), uuid4(), address="")])
    await auth.RecordRefusals(request, metadata=bearer(keys.service_token(RECORD)))
    assert audited(rows, "ACCESS_REFUSED") == [("ACCESS_REFUSED", None)]


async def test_what_auth_itself_refuses_is_taken_down_and_a_flood_of_it_as_one(settings: Make, rows: Any) -> None:
    method = "parley.auth.v1.UserService/ListServiceAccounts"
    events = "SELECT actor_id, details FROM auth.audit_events WHERE type = 'ACCESS_REFUSED' ORDER BY id"
    async with AsyncExitStack() as stack:
        server = await start(stack, open_auth, settings(AuthSettings))
        auth, users = AuthServiceStub(server.channel), UserServiceStub(server.channel)
        ann, bob = await sign_up(auth), await sign_up(auth, "bob@example.com")

        async def be_refused(who: SignedIn) -> None:
            refused = users.ListServiceAccounts(pb2.ListServiceAccountsRequest(), metadata=who.metadata)
            assert await outcome(refused) == "ACCESS_DENIED"

        for _ in range(20):
            await asyncio.gather(*(be_refused(ann) for _ in range(100)))
        await be_refused(bob)
        firsts = {UUID(who.user_id): {"method": method, "calls": "1"} for who in (ann, bob)}
        await until(lambda: dict(rows.execute(events)) == firsts)
        # The others are told when the minute is over, or at the end of the server.
    found = rows.execute(events).fetchall()
    assert found[:2] == list(firsts.items())
    assert found[2:] == [(UUID(ann.user_id), {"method": method, "calls": "1999"})]
