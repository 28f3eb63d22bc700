"""Passwords: which are taken, how one is changed, and that whoever guesses learns nothing from the time it takes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from typing import Any

import grpc
import psycopg
import pytest
from argon2 import PasswordHasher
from google.rpc import error_details_pb2 as details_pb2

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain import passwords
from services.auth.domain.password_rules import FEWEST_GUESSES, guesses_for
from services.auth.domain.passwords import Passwords
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from tests.auth.people import (
    EMAIL,
    OTHER_PASSWORD,
    PASSWORD,
    WRONG_PASSWORD,
    as_session,
    audited,
    execute,
    login,
    register,
    sessions_of,
)
from tests.conftest import Serve
from tests.support import Metadata, detail, raises_status, reason_of, status_of, until

Code = grpc.StatusCode
DEADLINE = 20.0


WEAK = {
    "k7#Qv9!zR2@xW5": "must have at least 15 characters",
    "cafe\u0301 no\u0308el fe\u0302te": "must have at least 15 characters",  # 17 code points, 14 characters
    "passwordpassword": "is easily guessed",
    "P@ssw0rd!P@ssw0rd!": "is easily guessed",
    "123456789012345678": "is easily guessed",
    "qwertyuiopasdfghjkl": "is easily guessed",
    "a" * 128: "is easily guessed",
    "december25december25": "is easily guessed",
    "my ARBOR-day@example.com rocks": "must not hold the address",
    "it is arbor-day again, folks": "must not hold the address",
    "zx81 a N N hArBoUr ok7": "must not hold the name",
}


async def test_a_weak_password_is_refused_with_what_is_wrong_with_it(auth: AuthServiceStub, database_url: str) -> None:
    for password, fault in WEAK.items():
        request = pb2.RegisterRequest(email="arbor-day@example.com", password=password, full_name="Ann Harbour")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth.Register(request)
        status = status_of(caught.value)
        assert reason_of(status) == "PASSWORD_WEAK"
        bad = detail(status, details_pb2.BadRequest)
        assert bad is not None
        ((field, description),) = [(violation.field, violation.description) for violation in bad.field_violations]
        assert field == "password"
        assert description.startswith(fault), password
    assert execute(database_url, "SELECT count(*) FROM auth.users") == [(0,)]


async def test_any_unicode_is_taken_and_a_server_may_allow_short_passwords(
    serve: Serve, settings: Callable[..., Any]
) -> None:
    auth = AuthServiceStub(await serve(open_auth, settings(AuthSettings, auth_password_min_length=8), own_keys=True))
    for number, password in enumerate(("k7#Qv9!z", "мой дядя самых", "合言葉は秘密です朝", "🦊🎻🌧🧭🪁🧊🪵🦉")):
        await register(auth, f"{number}@example.com", password)
        assert (await login(auth, f"{number}@example.com", password)).tokens.access_token


@pytest.mark.parametrize(
    "password",
    [
        ("4@8({[<369!1|0$5+7%2" * 7)[:128],  # each letter in every way: zxcvbn alone takes five seconds
        "12" * 64,
        "a" * 128,
        ("48(3691057%2" * 3)[:36] * 4,
        "\U0001f98a" * 128,
        "i" * 72,  # zxcvbn alone takes a tenth of a second, and everything else waits
        ("i" * 35 + "z") * 3,
        "30833|70771$|84|7$1|440|$3$4|3|8$38137$8471|$03" * 2,
    ],
)
def test_how_easily_a_password_is_guessed_is_known_in_a_moment_whatever_it_is(password: str) -> None:
    def seconds() -> float:
        started = time.thread_time()  # is lengthened little by what else the machine does
        guesses_for(password[:128], "ann.arbor@example.com", "Ann Arbor " * 20)
        return time.thread_time() - started

    assert min(seconds() for _ in range(3)) < 0.05


def test_what_is_repeated_makes_a_password_no_better_and_what_stands_beside_it_counts() -> None:
    def guesses(password: str) -> float:
        return guesses_for(password, EMAIL, "Ann Arbor")

    assert guesses("abc" * 40) <= guesses("abc" * 3) < FEWEST_GUESSES
    assert guesses("ha" * 20 + " walk quiet harbour") >= FEWEST_GUESSES
    assert guesses("i" * 100 + "k7#Qv9!zR2@xW5") >= FEWEST_GUESSES


async def test_a_changed_password_ends_the_other_sessions_and_is_told_by_mail(
    auth: AuthServiceStub, database_url: str
) -> None:
    user = await register(auth)
    other, mine = await login(auth), await login(auth)
    await change(auth, as_session(mine), PASSWORD, OTHER_PASSWORD)
    assert [session.id for session in await sessions_of(auth, as_session(mine))] == [mine.session.id]
    with raises_status(Code.UNAUTHENTICATED, "SESSION_REVOKED"):
        await sessions_of(auth, as_session(other))
    with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await login(auth)
    await login(auth, password=OTHER_PASSWORD)
    jobs = execute(database_url, "SELECT task_name, args->>'user_id' FROM jobs.procrastinate_jobs ORDER BY id")
    assert jobs[1:] == [("auth.send_password_notice", user.id)]
    assert audited(database_url, "PASSWORD_CHANGED") == [(user.id, user.id, mine.session.id, {})]


async def test_whoever_changes_the_password_again_and_again_fills_no_mailbox(
    auth: AuthServiceStub, database_url: str
) -> None:
    user = await register(auth)
    mine = as_session(await login(auth))
    notices = (
        "SELECT coalesce(extract(epoch FROM scheduled_at - now()), 0)::int, queueing_lock"
        " FROM jobs.procrastinate_jobs WHERE task_name = 'auth.send_password_notice' ORDER BY id"
    )
    await change(auth, mine, PASSWORD, OTHER_PASSWORD)
    await change(auth, mine, OTHER_PASSWORD, PASSWORD)
    ((wait, name),) = execute(database_url, notices)
    assert wait == 0
    assert name == f"auth.send_password_notice:{user.id}"
    execute(database_url, "UPDATE jobs.procrastinate_jobs SET queueing_lock = NULL")  # as when it was sent
    await change(auth, mine, PASSWORD, OTHER_PASSWORD)
    await change(auth, mine, OTHER_PASSWORD, PASSWORD)
    _, (wait, _) = execute(database_url, notices)
    assert 240 < wait <= 300  # It tells of both.


async def test_who_does_not_know_the_password_cannot_change_it_and_is_slowed_down(
    auth: AuthServiceStub, database_url: str
) -> None:
    user = await register(auth)
    mine = await login(auth)
    with raises_status(Code.INVALID_ARGUMENT, "PASSWORD_WEAK", fields=["new_password"]):
        await change(auth, as_session(mine), PASSWORD, "passwordpassword")
    for _ in range(4):
        with raises_status(Code.INVALID_ARGUMENT, "PASSWORD_WRONG", fields=["current_password"]):
            await change(auth, as_session(mine), WRONG_PASSWORD, OTHER_PASSWORD)
    assert audited(database_url, "PASSWORD_CHANGE_FAILED") == [(user.id, user.id, mine.session.id, {})] * 4
    account = sha256(f"PASSWORD_CHANGE:account:{user.id}".encode()).digest()
    execute(database_url, "UPDATE auth.throttles SET failures = 99, retry_time = now() WHERE key = %s", account)
    with raises_status(Code.INVALID_ARGUMENT, "PASSWORD_WRONG"):
        await change(auth, as_session(mine), WRONG_PASSWORD, OTHER_PASSWORD)
    with raises_status(Code.FAILED_PRECONDITION, "PASSWORD_LOCKED"):
        await change(auth, as_session(mine), PASSWORD, OTHER_PASSWORD)
    await login(auth)  # is counted for itself


async def test_who_is_signed_in_changes_the_password_whatever_strangers_have_tried(
    auth: AuthServiceStub, database_url: str
) -> None:
    await register(auth)
    mine = await login(auth)
    with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await login(auth, password=WRONG_PASSWORD)
    execute(
        database_url,
        "UPDATE auth.throttles SET failures = 100, retry_time = now() + interval '1 year' WHERE key = %s",
        sha256(f"SIGN_IN:account:{EMAIL}".encode()).digest(),
    )
    with raises_status(Code.FAILED_PRECONDITION, "PASSWORD_LOCKED"):
        await login(auth)
    await change(auth, as_session(mine), PASSWORD, OTHER_PASSWORD)


async def test_a_hash_of_older_parameters_is_made_anew_when_its_user_signs_in(
    auth: AuthServiceStub, database_url: str
) -> None:
    user = await register(auth)
    old = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=2).hash(PASSWORD)
    execute(database_url, "UPDATE auth.users SET password_hash = %s", old)
    with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await login(auth, password=WRONG_PASSWORD)
    assert execute(database_url, "SELECT password_hash FROM auth.users") == [(old,)]
    answers = await asyncio.gather(*(login(auth) for _ in range(3)))
    assert [answer.user for answer in answers] == [user] * 3  # It is no change that its user would see.
    ((new,),) = execute(database_url, "SELECT password_hash FROM auth.users")
    assert new.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    await login(auth)
    assert execute(database_url, "SELECT password_hash FROM auth.users") == [(new,)]


async def test_signing_in_with_an_unknown_address_costs_one_hash_and_the_same_statements(
    auth: AuthServiceStub, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = count_hashes(monkeypatch)
    # Services' own accounts are made in the background, and audited.
    await until(lambda: execute(database_url, "SELECT count(*) FROM auth.service_accounts") == [(3,)])
    with statements() as unknown, raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await login(auth, "nobody@example.com")
    assert hashes == ["verify"]
    await register(auth)
    hashes.clear()
    with statements() as wrong, raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await login(auth, password=WRONG_PASSWORD)
    assert hashes == ["verify"]
    assert unknown == wrong
    assert len(wrong) == 5  # two counters, the user, the failure of the address, the audit log


async def test_a_failure_is_taken_down_with_its_reason_and_whose_it_is_if_that_is_known(
    auth: AuthServiceStub, database_url: str
) -> None:
    user = await register(auth)
    session = await login(auth)
    for email in (EMAIL, "nobody@example.com"):
        with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
            await login(auth, email, WRONG_PASSWORD)
    execute(database_url, "UPDATE auth.users SET disable_time = now()")
    with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await login(auth, password=WRONG_PASSWORD)
    with raises_status(Code.PERMISSION_DENIED, "USER_DISABLED"):
        await login(auth)
    invalid, disabled = {"reason": "CREDENTIALS_INVALID"}, {"reason": "USER_DISABLED"}
    assert audited(database_url, "SIGN_IN_FAILED") == [
        (None, user.id, None, invalid),
        (None, None, None, invalid),
        (None, user.id, None, invalid),
        (None, user.id, None, disabled),
    ]
    assert audited(database_url, "SIGNED_IN") == [(user.id, user.id, session.session.id, {})]
    assert audited(database_url, "USER_REGISTERED") == [(None, user.id, None, {})]


async def test_a_change_of_password_while_somebody_signs_in_with_the_old_one_leaves_no_session_of_it(
    auth: AuthServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(auth)
    mine = await login(auth)
    async with held_after_verification(auth, monkeypatch) as signing_in:
        await change(auth, as_session(mine), PASSWORD, OTHER_PASSWORD)
    with raises_status(Code.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await signing_in
    assert [session.id for session in await sessions_of(auth, as_session(mine))] == [mine.session.id]


async def test_a_user_who_is_disabled_while_signing_in_gets_no_session(
    auth: AuthServiceStub, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(auth)
    async with held_after_verification(auth, monkeypatch) as signing_in:
        execute(database_url, "UPDATE auth.users SET disable_time = now()")
    with raises_status(Code.PERMISSION_DENIED, "USER_DISABLED"):
        await signing_in
    assert execute(database_url, "SELECT count(*) FROM auth.sessions") == [(0,)]


async def change(auth: AuthServiceStub, me: Metadata, current: str, new: str) -> None:
    """Change the caller's password."""
    await auth.ChangePassword(pb2.ChangePasswordRequest(current_password=current, new_password=new), metadata=me)


@asynccontextmanager
async def held_after_verification(
    auth: AuthServiceStub, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncio.Future[pb2.LoginResponse]]:
    """A login whose password is found to be right before the block, and that goes on after it."""
    verified, go_on, original = asyncio.Event(), asyncio.Event(), Passwords.matches

    async def matches(self: Passwords, password: str, stored: str | None) -> bool:
        found = await original(self, password, stored)
        if not verified.is_set():
            verified.set()
            await asyncio.wait_for(go_on.wait(), DEADLINE)
        return found

    monkeypatch.setattr(Passwords, "matches", matches)
    signing_in = asyncio.ensure_future(login(auth))
    await asyncio.wait_for(verified.wait(), DEADLINE)
    yield signing_in
    go_on.set()


def count_hashes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done with Argon2 from now on."""
    done: list[str] = []
    context = passwords._CONTEXT

    def counting(name: str, original: Any) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            done.append(name)
            return original(*arguments)

        return counted

    for name in ("hash", "verify"):
        monkeypatch.setattr(context, name, counting(name, getattr(context, name)))
    return done


@contextmanager
def statements() -> Iterator[list[str]]:
    """The statements of the block on what signing in is about: other work goes on in the background."""
    seen: list[str] = []
    execute_it = psycopg.AsyncCursor.execute

    async def noting(cursor: Any, query: str | bytes, *arguments: Any, **options: Any) -> Any:
        statement = query.decode() if isinstance(query, bytes) else str(query)
        if any(table in statement for table in ("auth.throttles", "auth.users", "auth.sessions", "auth.audit_events")):
            seen.append(statement)
        return await execute_it(cursor, query, *arguments, **options)

    # Here all meet, those that SQLAlchemy runs and those that were prepared.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.AsyncCursor, "execute", noting)
        yield seen
