"""Registering, signing in and out, and the tokens in between."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import grpc
import jwt
import psycopg
import pytest

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain.chores import Chores
from services.auth.domain.throttle import Throttle
from services.kit.database import Database
from services.kit.ids import utc_now
from tests.auth.people import PASSWORD, login, refresh, register
from tests.support import TestKeys, bearer, raises_status


async def test_who_registers_can_sign_in_and_is_known(auth: AuthServiceStub) -> None:
    user = await register(auth)
    session = await login(auth)
    assert session.user == user
    assert session.tokens.token_type == "Bearer"
    assert session.session.device_label == "laptop"
    me = await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=bearer(session.tokens.access_token))
    assert me.user == user


async def test_an_address_is_taken_whatever_its_case(auth: AuthServiceStub) -> None:
    await register(auth, "Ann@Example.com")
    with raises_status(grpc.StatusCode.ALREADY_EXISTS, "EMAIL_TAKEN"):
        await register(auth, "aNN@example.COM")
    assert (await login(auth, "ANN@EXAMPLE.COM")).user.email == "Ann@Example.com"


async def test_of_twenty_registrations_at_once_with_one_address_one_succeeds(
    auth: AuthServiceStub, database_url: str
) -> None:
    results = await asyncio.gather(*(register(auth) for _ in range(20)), return_exceptions=True)
    users = [result for result in results if isinstance(result, pb2.User)]
    assert len(users) == 1
    assert {r.code() for r in results if isinstance(r, grpc.aio.AioRpcError)} == {grpc.StatusCode.ALREADY_EXISTS}
    with psycopg.connect(database_url) as connection:
        queued = connection.execute("SELECT args FROM jobs.procrastinate_jobs").fetchall()
    assert queued == [({"user_id": users[0].id},)]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"email": ""}, "email"),
        ({"email": "not an address"}, "email"),
        ({"email": "a" * 250 + "@example.com"}, "email"),
        ({"password": "short"}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"full_name": ""}, "full_name"),
        ({"full_name": "  "}, "full_name"),
        ({"full_name": "n" * 201}, "full_name"),
        ({"full_name": "nul\0"}, "full_name"),
    ],
)
async def test_a_bad_registration_is_refused_with_its_field_and_stores_nothing(
    auth: AuthServiceStub, database_url: str, changed: dict[str, str], field: str
) -> None:
    good = {"email": "ann@example.com", "password": PASSWORD, "full_name": "Ann"}
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
        await auth.Register(pb2.RegisterRequest(**(good | changed)))
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM auth.users").fetchone() == (0,)


@pytest.mark.parametrize("email", ["ann@example.com", "nobody@example.com"])
async def test_a_wrong_password_and_an_unknown_address_answer_the_same_and_change_nothing(
    auth: AuthServiceStub, database_url: str, email: str
) -> None:
    await register(auth)
    with unchanged(database_url), raises_status(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await auth.Login(pb2.LoginRequest(email=email, password="wrong password"))


async def test_a_password_typed_in_another_unicode_form_is_the_same(auth: AuthServiceStub) -> None:
    composed, decomposed = "a caf\u00e9 au lait please", "a cafe\u0301 au lait please"
    await auth.Register(pb2.RegisterRequest(email="a@example.com", password=composed, full_name="A"))
    assert (await auth.Login(pb2.LoginRequest(email="a@example.com", password=decomposed))).tokens.access_token


async def test_the_access_token_is_what_rfc_9068_asks_for(auth: AuthServiceStub) -> None:
    user = await register(auth)
    session = await login(auth)
    token = session.tokens.access_token
    (key,) = (await auth.GetJwks(pb2.GetJwksRequest())).keys
    header = jwt.get_unverified_header(token)
    assert header == {"alg": "EdDSA", "typ": "at+jwt", "kid": key.kid}
    public = jwt.PyJWK({"kty": key.kty, "crv": key.crv, "x": key.x, "alg": key.alg})
    claims = jwt.decode(token, public, algorithms=["EdDSA"], audience="parley", issuer="parley")
    assert claims["sub"] == user.id
    assert claims["sid"] == session.session.id
    assert claims["exp"] - claims["iat"] == 900
    assert session.tokens.expire_time.ToSeconds() == claims["exp"]


async def test_a_refresh_token_is_good_once_and_its_successor_goes_on(auth: AuthServiceStub) -> None:
    await register(auth)
    first = (await login(auth)).tokens
    second = (await refresh(auth, first.refresh_token)).tokens
    third = (await refresh(auth, second.refresh_token)).tokens
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=bearer(third.access_token))


async def test_a_token_exchanged_long_ago_ends_the_session(auth: AuthServiceStub, database_url: str) -> None:
    await register(auth)
    old = (await login(auth)).tokens.refresh_token
    new = (await refresh(auth, old)).tokens
    make_exchanges_older(database_url)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED"):
        await refresh(auth, old)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await refresh(auth, new.refresh_token)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=bearer(new.access_token))


async def test_a_lost_reply_is_made_good_by_the_same_request_id_however_late(
    auth: AuthServiceStub, database_url: str
) -> None:
    await register(auth)
    token, request_id = (await login(auth)).tokens.refresh_token, str(uuid4())
    lost = await refresh(auth, token, request_id)
    make_exchanges_older(database_url)
    again = await refresh(auth, token, request_id)
    assert again.tokens.refresh_token == lost.tokens.refresh_token
    await refresh(auth, again.tokens.refresh_token)
    make_exchanges_older(database_url)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_REUSED"):
        await refresh(auth, token, request_id)


@pytest.mark.parametrize("token", ["x", "A" * 43])
async def test_an_unknown_refresh_token_is_refused(auth: AuthServiceStub, database_url: str, token: str) -> None:
    with unchanged(database_url), raises_status(grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID"):
        await refresh(auth, token)


async def test_after_logout_the_session_is_over(auth: AuthServiceStub) -> None:
    await register(auth)
    tokens = (await login(auth)).tokens
    other = (await login(auth)).tokens
    me = bearer(tokens.access_token)
    await auth.Logout(pb2.LogoutRequest(), metadata=me)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=me)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await refresh(auth, tokens.refresh_token)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await auth.Logout(pb2.LogoutRequest(), metadata=me)
    await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=bearer(other.access_token))


async def test_a_session_that_nobody_refreshed_in_time_is_over(auth: AuthServiceStub, database_url: str) -> None:
    await register(auth)
    token = (await login(auth)).tokens.refresh_token
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE auth.sessions SET expire_time = now()")
    with unchanged(database_url), raises_status(grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID"):
        await refresh(auth, token)


@pytest.mark.parametrize(
    ("method", "changed", "field"),
    [
        ("Login", {"email": ""}, "email"),
        ("Login", {"email": "a" * 255}, "email"),
        ("Login", {"password": ""}, "password"),
        ("Login", {"password": "x" * 129}, "password"),
        ("Login", {"device_label": "x" * 101}, "device_label"),
        ("Login", {"device_label": "nul\0"}, "device_label"),
        ("RefreshToken", {"refresh_token": ""}, "refresh_token"),
        ("RefreshToken", {"refresh_token": "x" * 257}, "refresh_token"),
        ("RefreshToken", {"request_id": "no uuid"}, "request_id"),
    ],
)
async def test_a_field_outside_its_limits_is_named_and_nothing_changes(
    auth: AuthServiceStub, database_url: str, method: str, changed: dict[str, str], field: str
) -> None:
    await register(auth)
    good = {
        "Login": {"email": "ann@example.com", "password": PASSWORD},
        "RefreshToken": {"refresh_token": (await login(auth)).tokens.refresh_token},
    }[method]
    request = getattr(pb2, f"{method}Request")(**(good | changed))
    with (
        unchanged(database_url),
        raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]),
    ):
        await getattr(auth, method)(request)


@pytest.mark.parametrize("method", ["Logout", "GetCurrentUser", "SendWelcomeEmail"])
async def test_what_is_about_the_caller_needs_a_token_of_this_auth(
    auth: AuthServiceStub, database_url: str, keys: TestKeys, method: str
) -> None:
    user = await register(auth)
    await login(auth)  # Which makes the first key, if nothing has.
    request = getattr(pb2, f"{method}Request")()
    with unchanged(database_url):
        with raises_status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"):
            await getattr(auth, method)(request)
        with raises_status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"):
            await getattr(auth, method)(request, metadata=bearer(keys.token(UUID(user.id))))


async def test_no_secret_is_stored_as_it_was_given(auth: AuthServiceStub, database_url: str) -> None:
    await register(auth)
    tokens = (await login(auth)).tokens
    newest = (await refresh(auth, tokens.refresh_token)).tokens
    dump = dump_of(database_url)
    for secret in (PASSWORD, tokens.refresh_token, newest.refresh_token, newest.access_token):
        assert secret not in dump
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in dump


def dump_of(database_url: str) -> str:
    """All that auth has stored, and its jobs."""
    tables = ("auth.users", "auth.sessions", "auth.refresh_tokens", "auth.signing_keys", "jobs.procrastinate_jobs")
    with psycopg.connect(database_url) as connection:
        return str([connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables])


@contextmanager
def unchanged(database_url: str) -> Iterator[None]:
    """Nothing that is stored changes in the block."""
    before = dump_of(database_url)
    yield
    assert dump_of(database_url) == before


def make_exchanges_older(database_url: str) -> None:
    """As if the last exchange was a minute ago."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE auth.refresh_tokens SET exchange_time = exchange_time - interval '1 minute'")


async def test_tokens_that_were_used_up_long_ago_are_forgotten_and_the_session_goes_on(
    auth: AuthServiceStub, database_url: str, database: Database
) -> None:
    await register(auth)
    first = (await login(auth)).tokens.refresh_token
    second = (await refresh(auth, first)).tokens.refresh_token
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE auth.refresh_tokens SET exchange_time = exchange_time - interval '31 days'")
    chores = Chores(database, Throttle(database, utc_now), utc_now, audit_kept=timedelta(days=365))
    await chores.delete_expired_sessions()
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "REFRESH_TOKEN_INVALID"):
        await refresh(auth, first)
    await refresh(auth, second)
