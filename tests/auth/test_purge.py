"""The last step of a user's removal, and what sets the chain going and keeps it so."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest

from services.auth.domain import purge as domain
from services.auth.jobs import PURGE_DUE_USERS, PURGE_USER
from services.auth.settings import AuthJobSettings
from services.auth.wiring import open_auth_jobs
from services.kit.database import libpq_url
from services.kit.ids import uuid7
from services.kit.purge import STEPS

Execute = Callable[..., Sequence[Any]]
RunJob = Callable[..., Awaitable[None]]
CHAT, _, _, AUTH = STEPS
PURGING = "UPDATE auth.users SET purging = true, delete_time = now(), purge_time = now()"
DELETED = "UPDATE auth.users SET delete_time = now() - interval '30 days', purge_time = now()"


@pytest.fixture
def execute(database_url: str) -> Execute:
    """Says something to the database; `%s` stands for values."""

    def execute(statement: str, *values: Any) -> Sequence[Any]:
        with psycopg.connect(
            libpq_url(database_url), autocommit=True, options="-c search_path=jobs,public"
        ) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    return execute


@pytest.fixture
def run_job(settings: Callable[..., Any]) -> RunJob:
    """Does one of auth's jobs, as the worker would."""

    async def run_job(name: str, **arguments: str) -> None:
        async with open_auth_jobs(settings(AuthJobSettings)) as jobs:
            (job,) = (job for job in jobs if job.name == name)
            await job.run(**arguments)

    return run_job


def waiting(execute: Execute) -> list[tuple[str, str]]:
    """The jobs that wait, with whom they are about."""
    return list(execute("SELECT task_name, args ->> 'user_id' FROM jobs.procrastinate_jobs ORDER BY id"))


def audited(execute: Execute) -> list[tuple[str, UUID]]:
    return list(execute("SELECT type, subject_id FROM auth.audit_events ORDER BY id"))


async def test_nothing_of_the_user_is_left_but_what_was_done_to_it(
    run_job: RunJob, execute: Execute, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "SESSIONS_AT_A_TIME", 2)
    ann, bob = as_user.id("ann"), as_user.id("bob")
    for user_id in (ann, ann, ann, ann, ann, bob):
        session_id = uuid7()
        execute(
            "INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time)"
            " VALUES (%s, %s, '', now(), now())",
            session_id,
            user_id,
        )
        execute(
            "INSERT INTO auth.refresh_tokens (token_hash, session_id, create_time) VALUES (%s, %s, now())",
            session_id.bytes,
            session_id,
        )
    execute(
        "INSERT INTO auth.email_codes (user_id, purpose, code_hash, create_time, expire_time, tries)"
        " VALUES (%s, 'PASSWORD_RESET', '', now(), now(), 0)",
        ann,
    )
    execute(PURGING + " WHERE id = %s", ann)
    for _ in range(2):
        await run_job(PURGE_USER, user_id=str(ann))
    assert execute("SELECT id FROM auth.users") == [(bob,)]
    assert execute("SELECT user_id FROM auth.sessions") == [(bob,)]
    assert execute("SELECT count(*) FROM auth.refresh_tokens") == [(1,)]
    assert execute("SELECT count(*) FROM auth.email_codes") == [(0,)]
    assert audited(execute) == [("USER_PURGED", ann)]
    assert waiting(execute) == []


async def test_a_user_whose_removal_nobody_asked_for_stays(run_job: RunJob, execute: Execute, as_user: Any) -> None:
    await run_job(PURGE_USER, user_id=str(as_user.id("ann")))
    assert execute("SELECT id FROM auth.users") == [(as_user.id("ann"),)]


async def test_what_was_written_for_the_user_meanwhile_begins_the_chain_again(
    run_job: RunJob, execute: Execute, as_user: Any
) -> None:
    ann = as_user.id("ann")
    written = {
        "agent.agents": "(id, user_id, name, description, model_name, system_prompt, config, is_active, revision,"
        " create_time, update_time) VALUES (%s, %s, '', '', '', '', '{}', true, 1, now(), now())",
        "file.uploads": "(id, user_id, state, create_time, update_time, expire_time)"
        " VALUES (%s, %s, 'OPEN', now(), now(), now())",
        "chat.rooms": "(id, user_id, name, description, last_sequence, member_count, create_time)"
        " VALUES (%s, %s, '', '', 0, 0, now())",
    }
    execute(PURGING)
    for table, columns in written.items():
        execute(f"INSERT INTO {table} {columns}", uuid7(), ann)
        await run_job(PURGE_USER, user_id=str(ann))
        await run_job(PURGE_USER, user_id=str(ann))
        assert waiting(execute) == [(CHAT, str(ann))]
        execute(f"DELETE FROM {table}")
        execute("DELETE FROM jobs.procrastinate_jobs")
    await run_job(PURGE_USER, user_id=str(ann))
    assert execute("SELECT count(*) FROM auth.users") == [(0,)]


async def test_deleted_users_go_when_their_time_is_over(
    run_job: RunJob, execute: Execute, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain, "USERS_AT_A_TIME", 2)
    due = [as_user.id(f"due-{n}") for n in range(5)]
    execute(DELETED)
    for name, columns in (
        ("active", "full_name = ''"),
        ("disabled", "disable_time = now()"),
        ("early", "delete_time = now(), purge_time = now() + interval '1 minute'"),
    ):
        execute(f"UPDATE auth.users SET {columns} WHERE id = %s", as_user.id(name))
    for _ in range(2):
        await run_job(PURGE_DUE_USERS)
        assert {row[0] for row in execute("SELECT id FROM auth.users WHERE purging")} == set(due)
        assert sorted(waiting(execute)) == sorted((CHAT, str(user_id)) for user_id in due)
        assert sorted(audited(execute)) == sorted(("USER_PURGE_REQUESTED", user_id) for user_id in due)


@pytest.mark.parametrize("status", ["todo", "doing", "failed"])
async def test_a_chain_that_got_lost_begins_again_and_no_other(
    run_job: RunJob, execute: Execute, as_user: Any, status: str
) -> None:
    ann = as_user.id("ann")
    execute(PURGING)
    step = (
        "INSERT INTO jobs.procrastinate_jobs (queue_name, task_name, queueing_lock, status)"
        " VALUES ('default', %s, %s, %s::jobs.procrastinate_job_status)"
    )
    execute(step, AUTH, f"{AUTH}:{ann}", status)
    await run_job(PURGE_DUE_USERS)
    begun = [name for name, _ in waiting(execute) if name == CHAT]
    assert begun == ([CHAT] if status == "failed" else [])
