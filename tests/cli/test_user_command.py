"""`parley user`: who is an administrator, decided by an operator beside the running auth service."""

import asyncio
import os
import pty
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from parley.auth.v1 import auth_service_pb2, user_service_pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.kit.database import libpq_url
from tests.conftest import Serve
from tests.support import bearer, raises_status

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery staple"
DEADLINE = 30.0


@dataclass
class Ended:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Awaitable[Ended]]


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    return inherited | {"PARLEY_DATABASE_URL": database_url, "PARLEY_DATA_DIR": str(tmp_path / "data")}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs `parley user` as a process of its own, without a terminal."""

    async def run(*arguments: str, stdin: str = "", **changed: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.cli", "user", *arguments),
            env=environment | changed,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(DEADLINE):
            stdout, stderr = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return Ended(process.returncode, stdout.decode(), stderr.decode())

    return run


@pytest.fixture
def execute(database_url: str) -> Callable[..., Sequence[Any]]:
    def execute(statement: str, *values: Any) -> Sequence[Any]:
        with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    return execute


def audited(execute: Any) -> list[str]:
    rows = execute("SELECT type FROM auth.audit_events WHERE type LIKE 'ADMIN%%' AND actor_id IS NULL ORDER BY id")
    return [row[0] for row in rows]


async def test_a_new_administrator_signs_in_and_is_one_until_it_is_removed(
    run: Run, serve: Serve, settings: Any, execute: Any
) -> None:
    made = await run("create-admin", "--email", "Root@example.com", "--password-stdin", stdin=f"{PASSWORD}\nmore")
    assert made == Ended(0, "Root@example.com is registered, and is an administrator\n", "")
    channel = await serve(open_auth, settings(AuthSettings), own_keys=True)
    auth, users = AuthServiceStub(channel), UserServiceStub(channel)
    login = auth_service_pb2.LoginRequest(email="root@example.com", password=PASSWORD)
    signed_in = await auth.Login(login)
    assert (signed_in.user.full_name, signed_in.user.is_admin, signed_in.user.email_verified) == ("Root", True, False)
    root = bearer(signed_in.tokens.access_token)
    assert (await users.ListUsers(user_service_pb2.ListUsersRequest(), metadata=root)).total_size == 1

    removed = await run("remove-admin", "--email", "root@example.com")
    said = "Root@example.com is no administrator any more, and its sessions have ended\n"
    assert (removed.code, removed.stdout) == (0, said)
    assert removed.stderr == "parley: there is no administrator now: `parley user create-admin` makes one\n"
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
        await users.ListUsers(user_service_pb2.ListUsersRequest(), metadata=root)
    assert not (await auth.Login(login)).user.is_admin

    # One who is there keeps its password, and nobody is asked for another.
    promoted = await run("create-admin", "--email", "ROOT@example.com", "--password-stdin")
    assert (promoted.code, promoted.stderr) == (0, "")
    assert promoted.stdout.startswith("Root@example.com is an administrator now")
    assert (await auth.Login(login)).user.is_admin
    assert audited(execute) == ["ADMIN_GRANTED", "ADMIN_REMOVED", "ADMIN_GRANTED"]


async def test_what_cannot_be_done_is_one_clear_line_and_an_exit_code(run: Run, execute: Any) -> None:
    create = ("create-admin", "--email")
    from_stdin = (*create, "root@example.com", "--password-stdin")
    refused = {
        "no address": (run(*create, "root"), 1, "email must be a valid email address"),
        "too short": (run(*from_stdin, stdin="too short\n"), 1, "password must have at least 15 characters"),
        "no terminal": (run(*create, "root@example.com"), 2, "there is no terminal to ask for the password"),
        "nothing runs": (run(*create, "root@example.com", PARLEY_DATABASE_URL=""), 2, "PARLEY_DATABASE_URL"),
    }
    ended = await asyncio.gather(*(running for running, _, _ in refused.values()))
    for (what, (_, code, says)), end in zip(refused.items(), ended, strict=True):
        assert (end.code, end.stdout) == (code, ""), what
        (line,) = end.stderr.splitlines()
        assert line.startswith(f"parley: {says}"), what
    assert execute("SELECT count(*) FROM auth.users") == [(0,)]


async def test_the_password_is_asked_for_twice_on_a_terminal_and_not_shown(
    environment: dict[str, str], execute: Any
) -> None:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "user", "create-admin"),
        *("--email", "root@example.com", "--name", "Ruth"),
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(slave), os.O_RDWR)),  # its controlling terminal
    )
    os.close(slave)
    said = ""

    async def answer(question: str, password: str) -> None:
        nonlocal said
        async with asyncio.timeout(DEADLINE):
            while not said.endswith(question):
                said += (await asyncio.to_thread(os.read, master, 1024)).decode()
        os.write(master, f"{password}\n".encode())

    await answer("Password: ", PASSWORD)
    await answer("Once more: ", "another one than before")
    await answer("Password: ", PASSWORD)
    await answer("Once more: ", PASSWORD)
    async with asyncio.timeout(DEADLINE):
        assert await process.wait() == 0
    said += os.read(master, 1024).decode()
    os.close(master)
    assert "root@example.com is registered" in said
    assert "horse" not in said
    assert "another" not in said
    assert execute("SELECT full_name, is_admin FROM auth.users") == [("Ruth", True)]
