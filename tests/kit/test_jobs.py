"""Background jobs: what the worker leaves behind of them."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from services.kit.database import libpq_url
from services.kit.jobs import run_worker
from services.kit.settings import DatabaseSettings
from tests.support import until

# A job in each state, as old as a day less and a day more than is kept.
JOBS = """
    WITH added AS (
        INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, scheduled_at)
        SELECT 'default', status, jsonb_build_object('email', status || day), status::procrastinate_job_status,
            now() + interval '1 day'
        FROM unnest(ARRAY['todo', 'failed', 'cancelled', 'aborted']) status, unnest(ARRAY[6, 8]) day
        RETURNING id, args ->> 'email' AS email
    )
    INSERT INTO procrastinate_events (job_id, type, at)
    SELECT id, 'failed', now() - right(email, 1)::integer * interval '1 day' FROM added
"""


async def test_jobs_that_failed_for_good_are_kept_for_a_week_with_what_they_were_given(
    settings: Callable[..., Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.jobs.CLEAN_SECONDS", 0.1)
    stop = asyncio.Event()
    options = "-c search_path=jobs,public"
    with psycopg.connect(libpq_url(database_url), autocommit=True, options=options) as connection:

        def left() -> set[str]:
            return {email for (email,) in connection.execute("SELECT args ->> 'email' FROM procrastinate_jobs")}

        connection.execute("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")  # They would take it down as new.
        connection.execute(JOBS)
        connection.execute("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
        assert len(left()) == 8
        working = asyncio.create_task(run_worker(settings(DatabaseSettings), [], stop=stop, ready=lambda: None))
        try:
            await until(lambda: len(left()) < 8)
            assert left() == {"todo6", "todo8", "failed6", "cancelled6", "aborted6"}
        finally:
            stop.set()
            await working
