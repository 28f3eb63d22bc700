"""Sessions: seen and ended by their user, bounded in age and number, and safe from copied refresh tokens."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import grpc
import pytest

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain.sessions import MOST_SESSIONS
from services.auth.domain.signing import TokenIssuer
from services.auth.models.sessions import AccessToken
from tests.auth.people import EMAIL, as_session, audited, execute, login, refresh, register, sessions_of
from tests.support import Metadata, raises_status

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
DEADLINE = 20.0
MAKE_OLDER = "UPDATE auth.refresh_tokens SET exchange_time = exchange_time - interval '11 seconds'"


async def test_a_user_sees_its_live_sessions_newest_first_with_what_is_known_of_them(
    auth: AuthServiceStub, database_url: str
) -> None:
    await register(auth)
    await register(auth, "bob@example.com")
    first, second, third = [await login(auth, device_label=label) for label in ("phone", "laptop", "tablet")]
    await login(auth, "bob@example.com")
    me = as_session(second)
    seen = await sessions_of(auth, me)
    assert [session.device_label for session in seen] == ["tablet", "laptop", "phone"]
    assert [session.is_current for session in seen] == [False, True, False]
    assert {session.address for session in seen} == {"127.0.0.1"}
    assert all("grpc-python" in session.user_agent for session in seen)
    assert second.session == seen[1]
    assert (await refresh(auth, second.tokens.refresh_token)).session.is_current
    refreshed = (await sessions_of(auth, me))[1]
    assert refreshed.last_use_time.ToDatetime() > seen[1].last_use_time.ToDatetime()
    execute(database_url, "UPDATE auth.sessions SET revoke_time = now() WHERE id = %s", first.session.id)
    execute(database_url, "UPDATE auth.sessions SET expire_time = now() WHERE id = %s", third.session.id)
    assert [session.id for session in await sessions_of(auth, me)] == [second.session.id]


async def test_sessions_come_in_pages(auth: AuthServiceStub) -> None:
    await register(auth)
    ids = [(await login(auth)).session.id for _ in range(4)]
    me = as_session(await login(auth))
    found, token = [], ""
    for _ in range(3):
        page = await auth.ListSessions(pb2.ListSessionsRequest(page_size=2, page_token=token), metadata=me)
        assert page.total_size == 5
        found += [session.id for session in page.sessions]
        token = page.next_page_token
    assert not token
    assert found[1:] == ids[::-1]
    with raises_status(INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await auth.ListSessions(pb2.ListSessionsRequest(page_token="x"), metadata=me)


async def test_a_user_ends_one_of_its_sessions_and_nobody_elses(auth: AuthServiceStub, database_url: str) -> None:
    user = await register(auth)
    await register(auth, "bob@example.com")
    lost, kept, bobs = await login(auth), await login(auth), await login(auth, "bob@example.com")
    for _ in range(2):  # The second changes nothing and is answered in the same way.
        await revoke(auth, lost.session.id, as_session(kept))
    for session_id in (bobs.session.id, str(uuid4())):
        with raises_status(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"):
            await revoke(auth, session_id, as_session(kept))
    await assert_over(auth, lost)
    await assert_alive(auth, kept, bobs)
    assert audited(database_url, "SESSION_REVOKED") == [(user.id, user.id, lost.session.id, {})]


@pytest.mark.parametrize(
    ("scope", "ended"),
    [("UNSPECIFIED", [0]), ("CURRENT", [0]), ("OTHERS", [1, 2]), ("ALL", [0, 1, 2])],
)
async def test_logging_out_ends_the_sessions_of_its_scope(
    auth: AuthServiceStub, database_url: str, scope: str, ended: list[int]
) -> None:
    user = await register(auth)
    await register(auth, "bob@example.com")
    sessions = [await login(auth) for _ in range(3)]
    bobs = await login(auth, "bob@example.com")
    value = pb2.LogoutScope.Value(f"LOGOUT_SCOPE_{scope}")
    await auth.Logout(pb2.LogoutRequest(scope=value), metadata=as_session(sessions[0]))
    for number, session in enumerate(sessions):
        await (assert_over(auth, session) if number in ended else assert_alive(auth, session))
    await assert_alive(auth, bobs)
    ((told,),) = execute(database_url, "SELECT session_ids::text[] FROM auth.revocations")
    assert sorted(told) == sorted(sessions[number].session.id for number in ended)
    details = {"scope": "CURRENT" if scope == "UNSPECIFIED" else scope, "sessions": str(len(ended))}
    assert audited(database_url, "SIGNED_OUT") == [(user.id, user.id, sessions[0].session.id, details)]


async def test_the_session_that_was_used_the_longest_ago_makes_room_for_one_more_than_a_user_may_have(
    auth: AuthServiceStub, database_url: str
) -> None:
    user = await register(auth)
    first, second = await login(auth), await login(auth)
    execute(
        database_url,
        "INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time, last_use_time)"
        " SELECT gen_random_uuid(), %s, '', now(), now() + interval '1 day', now() + interval '1 minute'"
        " FROM generate_series(3, %s)",
        user.id,
        MOST_SESSIONS,
    )
    execute(
        database_url,
        "UPDATE auth.sessions SET last_use_time = now() + interval '2 minutes' WHERE id = %s",
        first.session.id,
    )
    third = await login(auth)
    await assert_alive(auth, first, third)
    await assert_over(auth, second)
    assert len(await sessions_of(auth, as_session(third))) == MOST_SESSIONS
    told = execute(database_url, "SELECT session_ids::text[] FROM auth.revocations")
    assert told == [([second.session.id],)]


async def test_no_refresh_moves_a_session_beyond_its_greatest_age(auth: AuthServiceStub, database_url: str) -> None:
    await register(auth)
    session = await login(auth)
    ((idle, longest),) = execute(
        database_url, "SELECT expire_time - create_time, last_expire_time - create_time FROM auth.sessions"
    )
    assert (idle, longest) == (timedelta(days=30), timedelta(days=365))
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)
    execute(database_url, "UPDATE auth.sessions SET last_expire_time = %s", end)
    refreshed = await refresh(auth, session.tokens.refresh_token)
    assert refreshed.session.expire_time.ToDatetime(UTC) == end


@pytest.mark.parametrize("column", ["disable_time", "delete_time"])
async def test_a_user_who_may_not_sign_in_neither_refreshes_nor_is_known(
    auth: AuthServiceStub, database_url: str, column: str
) -> None:
    await register(auth)
    session = await login(auth)
    execute(database_url, f"UPDATE auth.users SET {column} = now()")
    await assert_over(auth, session)


async def test_fifty_refreshes_at_once_sign_nobody_out_and_a_replay_later_ends_the_session(
    auth: AuthServiceStub, database_url: str
) -> None:
    user = await register(auth)
    other, session = await login(auth), await login(auth)
    token = session.tokens.refresh_token
    answers = await asyncio.gather(*(refresh(auth, token) for _ in range(50)))
    (successor,) = {answer.tokens.refresh_token for answer in answers}
    newest = (await refresh(auth, successor)).tokens.refresh_token
    await assert_alive(auth, session)
    execute(database_url, MAKE_OLDER)
    with raises_status(UNAUTHENTICATED, "REFRESH_TOKEN_REUSED"):
        await refresh(auth, token)
    with raises_status(UNAUTHENTICATED, "SESSION_REVOKED"):
        await refresh(auth, newest)
    await assert_over(auth, session)
    await assert_alive(auth, other)
    assert audited(database_url, "REFRESH_TOKEN_REUSED") == [(None, user.id, session.session.id, {})]
    assert execute(database_url, "SELECT session_ids::text[] FROM auth.revocations") == [([session.session.id],)]


async def test_when_the_reply_was_lost_after_the_commit_the_retry_gets_the_same_successor(
    auth: AuthServiceStub, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(auth)
    token, request_id = (await login(auth)).tokens.refresh_token, str(uuid4())
    committed = asyncio.Event()

    async def never_ending(*_arguments: object) -> AccessToken:
        committed.set()
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(TokenIssuer, "issue", never_ending)
        lost = auth.RefreshToken(pb2.RefreshTokenRequest(refresh_token=token, request_id=request_id))
        await asyncio.wait_for(committed.wait(), DEADLINE)
        lost.cancel()
    ((stored,),) = execute(database_url, "SELECT token_hash FROM auth.refresh_tokens WHERE exchange_time IS NULL")
    execute(database_url, MAKE_OLDER)
    again = await refresh(auth, token, request_id)
    assert (await refresh(auth, token, request_id)).tokens.refresh_token == again.tokens.refresh_token
    found = execute(database_url, "SELECT token_hash FROM auth.refresh_tokens WHERE exchange_time IS NULL")
    assert found == [(stored,)]
    await refresh(auth, again.tokens.refresh_token)


async def test_whose_name_is_changed_is_told_what_it_is_now(auth: AuthServiceStub, database_url: str) -> None:
    user = await register(auth)
    session = await login(auth)
    me = as_session(session)
    renamed = await update(auth, me, ["full_name"], "Ann Harbour", user.etag)
    assert renamed.full_name == "Ann Harbour"
    assert renamed.email == EMAIL
    assert renamed.etag != user.etag
    assert (await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=me)).user == renamed
    assert await update(auth, me, ["*"], "Ann Harbour") == renamed
    with raises_status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await update(auth, me, ["full_name"], "Ann", user.etag)
    assert audited(database_url, "USER_UPDATED") == [(user.id, user.id, session.session.id, {"fields": "full_name"})]


async def test_nothing_but_a_name_of_its_own_can_be_changed(auth: AuthServiceStub) -> None:
    user = await register(auth)
    me = as_session(await login(auth))
    for paths in ([], ["email"], ["is_admin"], ["full_name", "state"]):
        with raises_status(INVALID_ARGUMENT, "UPDATE_MASK_INVALID", fields=["update_mask"]):
            await update(auth, me, paths, "Ann")
    for name in ("", "  ", "n" * 201, "nul\0"):
        with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["user.full_name"]):
            await update(auth, me, ["full_name"], name)
    assert (await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=me)).user == user


async def update(auth: AuthServiceStub, me: Metadata, paths: list[str], name: str, etag: str = "") -> pb2.User:
    """Change the fields of these paths to those of a user of this name, who is an administrator besides."""
    user = pb2.User(full_name=name, email="other@example.com", is_admin=True)
    request = pb2.UpdateCurrentUserRequest(user=user, etag=etag)
    request.update_mask.paths.extend(paths)
    return (await auth.UpdateCurrentUser(request, metadata=me)).user


async def revoke(auth: AuthServiceStub, session_id: str, me: Metadata) -> None:
    """End one of the caller's sessions."""
    await auth.RevokeSession(pb2.RevokeSessionRequest(session_id=session_id), metadata=me)


async def assert_over(auth: AuthServiceStub, session: pb2.LoginResponse) -> None:
    """Nothing can be done from it any more."""
    me = as_session(session)
    for method in ("GetCurrentUser", "ListSessions", "Logout"):
        with raises_status(UNAUTHENTICATED, "SESSION_REVOKED"):
            await getattr(auth, method)(getattr(pb2, f"{method}Request")(), metadata=me)
    with raises_status(UNAUTHENTICATED, "SESSION_REVOKED"):
        await revoke(auth, session.session.id, me)
    with raises_status(UNAUTHENTICATED, "SESSION_REVOKED"):
        await update(auth, me, ["full_name"], "Ann")
    with raises_status(UNAUTHENTICATED, "SESSION_REVOKED"):
        await refresh(auth, session.tokens.refresh_token)


async def assert_alive(auth: AuthServiceStub, *sessions: pb2.LoginResponse) -> None:
    """The user is known there."""
    for session in sessions:
        await auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=as_session(session))
