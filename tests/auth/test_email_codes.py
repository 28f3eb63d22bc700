"""Codes that are mailed: what they are good for, how often and how long, and that they give nothing away."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from pydantic import ValidationError
from structlog.testing import capture_logs

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain.email_codes import MOST_TRIES, EmailCodes, code_hash, new_code
from services.auth.domain.mails import link
from services.auth.models.users import CodePurpose
from services.auth.settings import AuthJobSettings
from services.kit.database import Database
from services.kit.ids import utc_now
from tests.auth.mailbox import Mailbox, working
from tests.canaries import canary, remembered
from tests.support import Metadata, bearer, raises_status

EMAIL = "Ann@example.com"
PASSWORD = "correct horse battery staple"
CODE = re.compile(r"(?m)^    ((?:[0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4})$")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


class Ann:
    """A user with an SMTP server that receives her mail, and the worker that sends it."""

    def __init__(self, auth: AuthServiceStub, mailbox: Mailbox, database_url: str, user: pb2.User) -> None:
        self.auth = auth
        self.mailbox = mailbox
        self.user = user
        self._url = database_url

    async def sign_in(self, password: str = PASSWORD) -> pb2.LoginResponse:
        """A new session."""
        return await self.auth.Login(pb2.LoginRequest(email=EMAIL, password=password))

    async def metadata(self) -> Metadata:
        """The token of a new session."""
        return bearer((await self.sign_in()).tokens.access_token)

    async def ask_for_reset(self, email: str = EMAIL) -> None:
        """Have a code mailed, if there is anybody to mail it to."""
        await self.auth.RequestPasswordReset(pb2.RequestPasswordResetRequest(email=email))

    async def reset_code(self) -> str:
        """A code to reset the password, from the mail."""
        return await self._code_of("Reset your Parley password", self.ask_for_reset)

    async def verification_code(self, me: Metadata) -> str:
        """A code to verify the address, from the mail."""

        async def ask() -> None:
            await self.auth.RequestEmailVerification(pb2.RequestEmailVerificationRequest(), metadata=me)

        return await self._code_of("Verify your address for Parley", ask)

    async def reset(self, code: str, password: str, email: str = EMAIL) -> None:
        """Set a password with a code."""
        await self.auth.ResetPassword(pb2.ResetPasswordRequest(email=email, code=code, new_password=password))

    async def verify(self, code: str, me: Metadata) -> pb2.User:
        """Verify the address with a code."""
        return (await self.auth.VerifyEmail(pb2.VerifyEmailRequest(code=code), metadata=me)).user

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """What the database answers."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    async def _code_of(self, subject: str, ask: Callable[[], Awaitable[None]]) -> str:
        before = sum(mail["Subject"] == subject for _, mail in self.mailbox.mails)
        await ask()
        return code_in(await self.mailbox.next(subject, than=before))


def code_in(mail: Any) -> str:
    """The code in a mail, which must be nowhere in its headers; from then on no log may have it."""
    (code,) = CODE.findall(mail.get_content().replace("\r\n", "\n"))
    for form in (code, code.replace("-", "")):
        remembered.add("a mailed code", form)
        assert not [name for name, value in mail.items() if form in value]
    return str(code)


@pytest.fixture
async def ann(
    auth: AuthServiceStub, settings: Any, smtp: tuple[Mailbox, dict[str, Any]], database_url: str
) -> AsyncIterator[Ann]:
    """A user, registered."""
    mailbox, route = smtp
    user = (await auth.Register(pb2.RegisterRequest(email=EMAIL, password=PASSWORD, full_name="Ann Arbor"))).user
    async with working(settings(AuthJobSettings, **route)):
        yield Ann(auth, mailbox, database_url, user)


def dump_of(database_url: str) -> str:
    """Everything that is in the database, as text; bytes as they are written in hexadecimal."""
    with psycopg.connect(database_url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        rows = [
            connection.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(*table))).fetchall()
            for table in tables
        ]
    return str(rows)


async def test_a_mailed_code_resets_the_password_ends_all_sessions_and_verifies_the_address(
    ann: Ann, database_url: str
) -> None:
    first, second = await ann.sign_in(), await ann.sign_in()
    code, new_password = await ann.reset_code(), canary("password")
    stored = dump_of(database_url)
    for form in (code, code.replace("-", ""), code.lower(), code.encode().hex(), code.replace("-", "").encode().hex()):
        assert form not in stored

    await ann.reset(f" {code.replace('-', ' ').lower()} ", new_password, email=EMAIL.upper())

    for session in (first, second):
        with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
            await ann.auth.GetCurrentUser(pb2.GetCurrentUserRequest(), metadata=bearer(session.tokens.access_token))
        with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
            await ann.auth.RefreshToken(pb2.RefreshTokenRequest(refresh_token=session.tokens.refresh_token))
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await ann.sign_in(PASSWORD)
    user = (await ann.sign_in(new_password)).user
    assert user.email_verified
    assert user.etag != ann.user.etag
    notice = await ann.mailbox.next("Your Parley password was changed")
    assert "If it was not you" in notice.get_content()
    assert ann.execute("SELECT session_ids FROM auth.revocations") == [
        ([UUID(first.session.id), UUID(second.session.id)],)
    ]
    kinds = [kind for (kind,) in ann.execute("SELECT type FROM auth.audit_events ORDER BY id")]
    assert [kind for kind in kinds if kind.startswith("PASSWORD")] == ["PASSWORD_RESET_REQUESTED", "PASSWORD_RESET"]


async def test_a_mailed_code_verifies_the_address(ann: Ann) -> None:
    me = await ann.metadata()
    code = await ann.verification_code(me)
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.verify(new_code(), me)
    user = await ann.verify(code.lower(), me)
    assert user.email_verified
    assert await ann.verify("whatever", me) == user
    with raises_status(grpc.StatusCode.FAILED_PRECONDITION, "EMAIL_ALREADY_VERIFIED"):
        await ann.auth.RequestEmailVerification(pb2.RequestEmailVerificationRequest(), metadata=me)
    kinds = [kind for (kind,) in ann.execute("SELECT type FROM auth.audit_events ORDER BY id")]
    assert [kind.removeprefix("EMAIL_") for kind in kinds if kind.startswith("EMAIL")] == [
        *("VERIFICATION_REQUESTED", "VERIFICATION_FAILED", "VERIFIED")
    ]


async def test_who_has_signed_out_neither_asks_for_a_code_nor_presents_one(ann: Ann) -> None:
    me = await ann.metadata()
    code = await ann.verification_code(me)
    await ann.auth.Logout(pb2.LogoutRequest(), metadata=me)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await ann.verify(code, me)
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await ann.auth.RequestEmailVerification(pb2.RequestEmailVerificationRequest(), metadata=me)


async def test_a_code_is_good_once_and_for_its_purpose_and_its_user(ann: Ann) -> None:
    me = await ann.metadata()
    reset, verification = await ann.reset_code(), await ann.verification_code(me)
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.verify(reset, me)
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(verification, canary("password"))
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(reset, canary("password"), email="bob@example.com")
    results = await asyncio.gather(*(ann.reset(reset, canary("password")) for _ in range(3)), return_exceptions=True)
    assert [result for result in results if result is None] == [None]
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(reset, canary("password"))


async def test_a_newer_code_replaces_the_one_before(ann: Ann) -> None:
    first, second = await ann.reset_code(), await ann.reset_code()
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(first, canary("password"))
    await ann.reset(second, canary("password"))


async def test_a_code_is_good_for_15_minutes(ann: Ann) -> None:
    code = await ann.reset_code()
    assert ann.execute("SELECT extract(epoch FROM expire_time - create_time)::int FROM auth.email_codes") == [(900,)]
    ann.execute("UPDATE auth.email_codes SET expire_time = now() - interval '1 second'")
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(code, canary("password"))


async def test_wrong_codes_of_a_stranger_leave_the_mailed_one_good(ann: Ann) -> None:
    code = await ann.reset_code()
    for _ in range(10):
        with raises_status(INVALID, "CODE_INVALID"):
            await ann.reset(new_code(), canary("password"))
    await ann.reset(code, canary("password"))


async def test_after_a_hundred_tries_even_the_right_code_is_refused(ann: Ann) -> None:
    code = await ann.reset_code()
    ann.execute("UPDATE auth.email_codes SET tries = 99")
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(new_code(), canary("password"))
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(code, canary("password"))
    await ann.sign_in()


async def test_of_tries_at_once_no_more_than_a_hundred_count(database: Database, as_user: Any) -> None:
    codes, ann_id, purpose = EmailCodes(utc_now), as_user.id("ann"), CodePurpose.PASSWORD_RESET
    async with database.transaction() as tx:
        code = await codes.make(tx, ann_id, purpose)

    async def present() -> bool:
        async with database.transaction() as tx:
            return await codes.present(tx, ann_id, purpose, code)

    assert sum(await asyncio.gather(*(present() for _ in range(MOST_TRIES + 20)))) == MOST_TRIES == 100


async def test_a_code_to_reset_the_password_is_good_no_more_once_it_was_changed(ann: Ann) -> None:
    me = await ann.metadata()
    reset, verification = await ann.reset_code(), await ann.verification_code(me)
    await ann.auth.ChangePassword(
        pb2.ChangePasswordRequest(current_password=PASSWORD, new_password=canary("password")), metadata=me
    )
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(reset, canary("password"))
    await ann.verify(verification, me)


async def test_a_weak_password_leaves_the_code_good_and_is_told_to_nobody_else(ann: Ann) -> None:
    code = await ann.reset_code()
    ann.execute(f"UPDATE auth.email_codes SET tries = {MOST_TRIES - 1}")
    for _ in range(3):
        with raises_status(INVALID, "PASSWORD_WEAK", fields=["new_password"]):
            await ann.reset(code, "Ann Arbor went to town")
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset("wrong", "Ann Arbor went to town")
    ann.execute(f"UPDATE auth.email_codes SET tries = {MOST_TRIES - 1}")
    await ann.reset(code, canary("password"))


async def test_a_user_who_may_not_sign_in_gets_no_code_and_can_use_none(ann: Ann) -> None:
    code = await ann.reset_code()
    ann.execute("UPDATE auth.users SET disable_time = now()")
    with raises_status(INVALID, "CODE_INVALID"):
        await ann.reset(code, canary("password"))
    with capture_logs() as logs:
        await ann.ask_for_reset()
        await no_jobs_left(ann)
    assert "no mail, nobody who may sign in has the address" in [line["event"] for line in logs]
    assert EMAIL not in str(logs)
    ann.execute("UPDATE auth.users SET disable_time = NULL")
    await ann.reset(code, canary("password"))  # It was not replaced.


async def test_a_password_that_is_locked_is_open_again_once_it_is_reset(ann: Ann) -> None:
    me = await ann.metadata()
    code, password = await ann.reset_code(), canary("password")
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await ann.sign_in("wrong horse battery staple")
    change = pb2.ChangePasswordRequest(current_password="wrong horse battery staple", new_password=password)
    with raises_status(INVALID, "PASSWORD_WRONG"):
        await ann.auth.ChangePassword(change, metadata=me)
    ann.execute(
        "UPDATE auth.throttles SET failures = 100, retry_time = now() + interval '1 year'"
        " WHERE key IN (sha256('SIGN_IN:account:ann@example.com'),"
        f" sha256('PASSWORD_CHANGE:account:{ann.user.id}'))"
    )
    assert len(ann.execute("SELECT 1 FROM auth.throttles WHERE failures = 100")) == 2
    with raises_status(grpc.StatusCode.FAILED_PRECONDITION, "PASSWORD_LOCKED"):
        await ann.sign_in()
    await ann.reset(code, password)
    await ann.sign_in(password)
    assert not ann.execute("SELECT 1 FROM auth.throttles WHERE failures = 100")


async def no_jobs_left(ann: Ann) -> None:
    """Wait until the worker has done all that was asked for."""
    async with asyncio.timeout(20):
        while ann.execute("SELECT 1 FROM jobs.procrastinate_jobs WHERE status IN ('todo', 'doing')"):  # noqa: ASYNC110  # the table tells nobody
            await asyncio.sleep(0.05)


async def test_an_unknown_address_is_answered_as_a_known_one_and_gets_no_mail(ann: Ann, database_url: str) -> None:
    await ann.mailbox.next("Welcome to Parley")
    request = pb2.RequestPasswordResetRequest
    with capture_logs() as logs:
        answers = [
            await ann.auth.RequestPasswordReset(request(email=email))
            for email in (EMAIL, "nobody@example.com", "no address")
        ]
        await no_jobs_left(ann)
    assert {answer.SerializeToString() for answer in answers} == {b""}
    assert "no mail, nobody who may sign in has the address" in [line["event"] for line in logs]
    assert "nobody@example.com" not in str(logs)
    await ann.mailbox.next("Reset your Parley password")
    assert {tuple(recipients) for recipients, _ in ann.mailbox.mails} == {(EMAIL,)}
    refusals = set()
    for email in (EMAIL, "nobody@example.com"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ann.reset(new_code(), canary("password"), email=email)
        refusals.add(str(caught.value.trailing_metadata()))
    assert len(refusals) == 1
    assert "nobody@example.com" not in dump_of(database_url)


async def test_asking_too_often_has_to_wait_whether_the_address_is_known_or_not(auth: AuthServiceStub) -> None:
    await auth.Register(pb2.RegisterRequest(email=EMAIL, password=PASSWORD, full_name="Ann Arbor"))
    for email in (EMAIL, "nobody@example.com"):
        request = pb2.RequestPasswordResetRequest(email=email)
        with raises_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS"):
            for _ in range(20):
                await auth.RequestPasswordReset(request)


async def test_it_takes_as_long_for_an_unknown_address_as_for_a_known_one(
    auth: AuthServiceStub, database_url: str
) -> None:
    await auth.Register(pb2.RegisterRequest(email=EMAIL, password=PASSWORD, full_name="Ann Arbor"))
    taken: dict[str, list[float]] = {"ask known": [], "ask unknown": [], "reset known": [], "reset unknown": []}
    with psycopg.connect(database_url, autocommit=True) as connection:
        for turn in range(30):
            connection.execute("DELETE FROM auth.throttles")  # Nobody has to wait.
            whose = [("known", EMAIL), ("unknown", "nobody@example.com")]
            for which, email in whose if turn % 2 else reversed(whose):
                start = time.perf_counter()
                await auth.RequestPasswordReset(pb2.RequestPasswordResetRequest(email=email))
                asked = time.perf_counter()
                with pytest.raises(grpc.aio.AioRpcError):
                    await auth.ResetPassword(
                        pb2.ResetPasswordRequest(email=email, code=new_code(), new_password=PASSWORD)
                    )
                taken[f"ask {which}"].append(asked - start)
                taken[f"reset {which}"].append(time.perf_counter() - asked)
    for what in ("ask", "reset"):
        assert 0.5 < median(taken[f"{what} known"]) / median(taken[f"{what} unknown"]) < 2, what


async def test_a_mail_has_a_link_where_one_is_set(
    auth: AuthServiceStub, settings: Any, smtp: tuple[Mailbox, dict[str, Any]]
) -> None:
    mailbox, route = smtp
    await auth.Register(pb2.RegisterRequest(email="a+b@example.com", password=PASSWORD, full_name="Ann"))
    url = "https://app.example.com/reset?email={email}#{code}"
    async with working(settings(AuthJobSettings, **route, auth_password_reset_url=url)):
        await auth.RequestPasswordReset(pb2.RequestPasswordResetRequest(email="a+b@example.com"))
        mail = await mailbox.next("Reset your Parley password")
    assert f"https://app.example.com/reset?email=a%2Bb%40example.com#{code_in(mail)}" in mail.get_content()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://example.com/",
            "https://example.com/?c={token}",
            "ftp://example.com/{code}",
            "{code}",
            "https:{code}",
        ),
        *(
            "https://{code}.example.com/",
            "https://example.com/{code",
            "https://example.com/{code}{x}",
            "https://[/{code}",
        ),
        "javascript:alert('{code}')",
    ],
)
def test_a_link_that_leads_nowhere_or_has_no_code_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match="auth_email_verification_url"):
        AuthJobSettings(database_url="postgresql://localhost/x", auth_email_verification_url=url)  # type: ignore[arg-type]  # as from the environment


@given(st.text(max_size=40), st.text(max_size=20))
def test_what_a_link_is_given_stays_in_its_place(email: str, code: str) -> None:
    allowed = re.compile(r"https://example\.com/\?e=[\w.~%-]*&c=[\w.~%-]*", re.ASCII)
    assert allowed.fullmatch(link("https://example.com/?e={email}&c={code}", email, code))


def test_a_code_has_80_random_bits_and_no_letters_that_are_taken_for_digits() -> None:
    codes = {new_code() for _ in range(2000)}
    assert len(codes) == 2000
    assert all(re.fullmatch(r"([0-9A-HJKMNP-TV-Z]{4}-){3}[0-9A-HJKMNP-TV-Z]{4}", code) for code in codes)
    assert set("".join(codes)) == set("0123456789ABCDEFGHJKMNPQRSTVWXYZ-")


def test_a_code_is_the_same_however_it_is_typed() -> None:
    for typed in ("0123-ABCD-1WXY-0Z1V", "0123abcd1wxy0z1v", " o l 2 3 - a b c d-IWXY-oZlv\n"):
        assert code_hash(typed) == code_hash("0123-ABCD-1WXY-0Z1V"), typed
    assert code_hash("0123-ABCD-1WXY-0Z1") != code_hash("0123-ABCD-1WXY-0Z1V")
