"""Making and unmaking administrators, as the command line does it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from services.auth.domain.admins import Admins
from services.auth.errors import EmailTaken, PasswordWeak, UserDisabled, UserNotFound, UserPurging
from services.auth.settings import AuthSettings
from services.auth.wiring import open_administration
from services.kit.database import libpq_url

PASSWORD = "correct horse battery staple"
Execute = Callable[..., Any]


@pytest.fixture
async def admins(settings: Callable[..., Any]) -> AsyncIterator[Admins]:
    async with open_administration(settings(AuthSettings)) as opened:
        yield opened


@pytest.fixture
def execute(database_url: str) -> Execute:
    def execute(statement: str, *values: Any) -> Any:
        with psycopg.connect(libpq_url(database_url), autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    return execute


def audited(execute: Execute) -> list[str]:
    return [kind for (kind,) in execute("SELECT type FROM auth.audit_events ORDER BY id")]


async def test_what_is_so_already_stays_as_it_is(admins: Admins, as_user: Any, execute: Execute) -> None:
    as_user.id("ann")
    assert not (await admins.remove("Ann@example.com")).is_admin
    granted = await admins.grant("ANN@example.com")
    assert (granted.is_admin, granted.revision) == (True, 2)
    assert await admins.grant("ann@example.com") == granted
    assert audited(execute) == ["ADMIN_GRANTED"]


async def test_a_user_who_is_kept_out_is_made_no_administrator(admins: Admins, as_user: Any, execute: Execute) -> None:
    for name, columns, failure in (
        ("disabled", "disable_time = now()", UserDisabled),
        ("deleted", "delete_time = now()", UserDisabled),
        ("purging", "delete_time = now(), purging = true", UserPurging),
    ):
        execute(f"UPDATE auth.users SET {columns} WHERE id = %s", as_user.id(name))
        with pytest.raises(failure):
            await admins.grant(f"{name}@example.com")
    for change in (admins.grant, admins.remove):
        with pytest.raises(UserNotFound):
            await change("nobody@example.com")
    assert audited(execute) == []


async def test_a_new_administrator_keeps_to_the_rules_of_all_users(
    admins: Admins, as_user: Any, execute: Execute
) -> None:
    as_user.id("ann")
    with pytest.raises(EmailTaken):
        await admins.create("ANN@example.com", PASSWORD, "Ann")
    for password in ("too short", "passwordpassword", "roots long password: root@example.com"):
        with pytest.raises(PasswordWeak):
            await admins.create("root@example.com", password, "Root")
    assert execute("SELECT count(*) FROM auth.users") == [(1,)]
    await admins.create("root@example.com", PASSWORD, "Root")
    assert execute("SELECT task_name FROM jobs.procrastinate_jobs") == [("auth.send_welcome_email",)]
    assert audited(execute) == ["USER_REGISTERED", "ADMIN_GRANTED"]


async def test_only_administrators_who_can_sign_in_are_counted(admins: Admins, as_user: Any, execute: Execute) -> None:
    for name, columns in (("active", ""), ("disabled", ", disable_time = now()"), ("deleted", ", delete_time = now()")):
        execute(f"UPDATE auth.users SET is_admin = true{columns} WHERE id = %s", as_user.id(name))
    assert await admins.count() == 1


async def test_many_changes_at_once_leave_one_after_the_other(admins: Admins, as_user: Any, execute: Execute) -> None:
    ann = as_user.id("ann")
    await asyncio.gather(*(change("ann@example.com") for _ in range(8) for change in (admins.grant, admins.remove)))
    kinds = audited(execute)
    assert kinds == ["ADMIN_GRANTED", "ADMIN_REMOVED"] * (len(kinds) // 2) + ["ADMIN_GRANTED"] * (len(kinds) % 2)
    assert execute("SELECT revision, is_admin FROM auth.users WHERE id = %s", ann) == [(len(kinds) + 1, len(kinds) % 2)]
