"""The welcome mail: enqueued with the user, delivered by the worker, retried, and never lost with a worker."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain.mails import welcome_mail
from services.auth.jobs import SEND_WELCOME_EMAIL
from services.auth.models.users import User
from services.auth.settings import AuthJobSettings
from services.kit.database import Database
from services.kit.jobs import JobQueue
from tests.auth.mailbox import DEADLINE, Mailbox, working
from tests.support import bearer, raises_status, until

Settings = Callable[..., Any]


async def register(auth: AuthServiceStub, email: str = "ann@example.com", name: str = "Ann Arbor") -> pb2.User:
    """A new user."""
    request = pb2.RegisterRequest(email=email, password="correct horse battery staple", full_name=name)
    return (await auth.Register(request)).user


async def test_who_registers_gets_a_welcome_mail_over_smtp(
    auth: AuthServiceStub, settings: Settings, smtp: tuple[Mailbox, dict[str, Any]]
) -> None:
    mailbox, route = smtp
    async with working(settings(AuthJobSettings, **route)):
        user = await register(auth, name="Änn\r\nBcc: eve@example.com")
        await until(lambda: bool(mailbox.mails))
    ((recipients, mail),) = mailbox.mails
    assert recipients == ["ann@example.com"]
    assert mail["Subject"] == "Welcome to Parley"
    assert mail["Bcc"] is None
    assert mail["Message-ID"] == f"<welcome.{user.id}@parley>"
    assert "ann@example.com" in mail.get_content()


@pytest.mark.parametrize("name", [("a" * 78 + " ") * 2, "n" * 200, "\u6f22" * 200, '"' * 200, "=?" * 100, " " * 200])
def test_the_headers_are_whole_whatever_the_name(name: str) -> None:
    now = datetime.now(UTC)
    mail = welcome_mail(User(uuid4(), "ann@example.com", name, "", now, now))
    read = message_from_bytes(mail.as_bytes(), policy=default)
    assert sorted(read.keys()) == sorted(mail.keys())
    assert [address.addr_spec for address in read["To"].addresses] == ["ann@example.com"]


@pytest.mark.parametrize(
    "name",
    [
        "Win at https://evil.example/x",
        "see WWW.evil",
        "go to evil.example now",
        "evil\u3002example",
        "n" * 70 + " http://evil.example",
        "\x00evil\u200b.example",
        "\n",
    ],
)
def test_a_name_that_could_become_a_link_is_not_in_the_mail(name: str) -> None:
    now = datetime.now(UTC)
    mail = welcome_mail(User(uuid4(), "ann@example.com", name, "", now, now))
    assert mail.get_content().startswith("Hello,")
    assert mail["To"] == "ann@example.com"
    assert "evil" not in mail.as_string()


@pytest.mark.parametrize("name", ["Ann Arbor", "J.R.R. Tolkien", "Dr. Ann", "\u6f22" * 200])
def test_who_has_a_name_is_greeted_with_it(name: str) -> None:
    now = datetime.now(UTC)
    mail = welcome_mail(User(uuid4(), "ann@example.com", name, "", now, now))
    assert mail.get_content().startswith(f"Hello {name[:60]},")


async def test_who_asks_for_welcome_mails_again_and_again_has_to_wait(
    auth: AuthServiceStub,
) -> None:
    await register(auth)
    login = await auth.Login(pb2.LoginRequest(email="ann@example.com", password="correct horse battery staple"))
    me = bearer(login.tokens.access_token)
    with raises_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS"):
        for _ in range(6):
            await auth.SendWelcomeEmail(pb2.SendWelcomeEmailRequest(), metadata=me)
    await auth.RequestPasswordReset(pb2.RequestPasswordResetRequest(email="ann@example.com"))
    await auth.RequestEmailVerification(pb2.RequestEmailVerificationRequest(), metadata=me)


async def test_without_smtp_the_mail_is_a_file_that_only_its_owner_reads(
    auth: AuthServiceStub, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "mail"
    async with working(settings(AuthJobSettings)):
        await register(auth)
        await until(lambda: folder.exists() and bool(list(folder.glob("*.eml"))))
    (path,) = folder.glob("*.eml")
    assert message_from_bytes(path.read_bytes(), policy=default)["To"] == "Ann Arbor <ann@example.com>"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
async def test_a_mail_that_is_refused_for_the_moment_is_sent_again(
    auth: AuthServiceStub, settings: Settings, smtp: tuple[Mailbox, dict[str, Any]]
) -> None:
    mailbox, route = smtp
    mailbox.refuse = 1
    async with working(settings(AuthJobSettings, **route)):
        await register(auth)
        await until(lambda: bool(mailbox.mails))
    assert mailbox.refuse == 0


async def test_asking_again_queues_one_mail_however_often_it_is_asked(auth: AuthServiceStub, database_url: str) -> None:
    await register(auth)
    login = await auth.Login(pb2.LoginRequest(email="ann@example.com", password="correct horse battery staple"))
    me = bearer(login.tokens.access_token)
    await asyncio.gather(*(auth.SendWelcomeEmail(pb2.SendWelcomeEmailRequest(), metadata=me) for _ in range(5)))
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT queueing_lock IS NULL FROM jobs.procrastinate_jobs ORDER BY id").fetchall()
    assert rows == [(True,), (False,)]


async def test_a_job_of_a_transaction_that_rolls_back_is_never_run(database: Database, database_url: str) -> None:
    queue = JobQueue()

    async def fail_after_enqueueing() -> None:
        async with database.transaction() as tx:
            await queue.enqueue(tx, SEND_WELCOME_EMAIL, user_id="x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_after_enqueueing()
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM jobs.procrastinate_jobs").fetchone() == (0,)


async def test_the_job_of_a_worker_that_died_is_done_by_the_next(
    auth: AuthServiceStub, settings: Settings, database_url: str, smtp: tuple[Mailbox, dict[str, Any]]
) -> None:
    mailbox, route = smtp
    await register(auth)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET search_path = jobs")
        connection.execute("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '10 minutes')")
        connection.execute(
            "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT id FROM procrastinate_workers)"
        )
    async with working(settings(AuthJobSettings, **route)):
        await until(lambda: bool(mailbox.mails))


async def test_a_worker_outlasts_the_loss_of_its_connections(
    auth: AuthServiceStub, settings: Settings, database_url: str, smtp: tuple[Mailbox, dict[str, Any]]
) -> None:
    mailbox, route = smtp
    async with working(settings(AuthJobSettings, **route)):
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    await register(auth)
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
        await until(lambda: bool(mailbox.mails))
