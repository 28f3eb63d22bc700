"""Background jobs: enqueued in the transaction of the use case that wants them, run by `parley worker`.

A job is run at least once. It is retried with growing waits when it fails, and again when its worker died; so a job is
written to be repeatable. procrastinate keeps the queue, in the schema `jobs` of the same PostgreSQL.

A job that is done is deleted. One that failed for good is kept for a week, for whoever looks why, and not longer: its
arguments can be what somebody typed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NewType

import procrastinate
import psycopg
import structlog
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.kit.database import libpq_url
from services.kit.faults import describe_fault
from services.kit.roles import chosen_role, connection_options
from services.kit.settings import DatabaseSettings

log = structlog.get_logger()

JobName = NewType("JobName", str)

MAX_RETRIES = 8
POLLING_SECONDS = 2.0
STALLED_SECONDS = 30.0
CLEAN_SECONDS = 3_600.0
FAILED_KEPT_HOURS = 7 * 24
RECONNECT_SECONDS = 1.0
CONCURRENCY = 4
GRACE_SECONDS = 2

_UNDER_WAY = text(
    "SELECT DISTINCT queueing_lock FROM jobs.procrastinate_jobs"
    " WHERE status IN ('todo', 'doing') AND queueing_lock IN :names"
).bindparams(bindparam("names", expanding=True))


@dataclass(frozen=True)
class Job:
    """Something the worker can do: `run` is called with the arguments that were enqueued under `name`.

    `cron` makes it periodic instead; `run` is then called without arguments. `then` is enqueued with the same arguments
    when `run` has returned, unless one like it waits; what is broken off before that is done again.
    """

    name: JobName
    run: Callable[..., Awaitable[None]]
    cron: str | None = None
    then: JobName | None = None


def only_one(name: JobName, **arguments: Any) -> str:
    """What `once` is for a job of which one with the same arguments is enough."""
    return ":".join([name, *map(str, arguments.values())])


class JobQueue:
    """Enqueues jobs by name. It needs no connection of its own."""

    def __init__(self) -> None:
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector())

    async def enqueue(
        self,
        tx: AsyncConnection,
        name: JobName,
        *,
        once: str | None = None,
        after: timedelta | None = None,
        **arguments: Any,
    ) -> bool:
        """Enqueue a job in the caller's transaction: it runs if and only if that commits.

        `once` names it: while one with the same name waits, no second is added and the answer is False. `after` is how
        long it is to wait at the least.
        """
        connection = (await tx.get_raw_connection()).driver_connection
        savepoint = await tx.begin_nested() if once else None
        wait = {"seconds": after.total_seconds()} if after else None
        try:
            await self._app.configure_task(
                name, queueing_lock=once, schedule_in=wait, connection=connection
            ).defer_async(**arguments)
        except AlreadyEnqueued:
            assert savepoint is not None
            await savepoint.rollback()
            return False
        if savepoint is not None:
            await savepoint.commit()
        return True

    async def under_way(self, tx: AsyncConnection, names: Sequence[str]) -> set[str]:
        """Those of the names, as `once` gave them, whose jobs wait or are being done."""
        if not names:
            return set()
        return set((await tx.execute(_UNDER_WAY, {"names": names})).scalars())


@asynccontextmanager
async def _opened(settings: DatabaseSettings, jobs: Sequence[Job]) -> AsyncIterator[procrastinate.App]:
    connector = procrastinate.PsycopgConnector(
        conninfo=libpq_url(settings.database_url.get_secret_value()),
        kwargs={"options": connection_options(chosen_role(settings, "worker"), search_path="jobs,public")},
        max_size=6,
    )
    app = procrastinate.App(connector=connector)
    for job in jobs:
        _register(app, job)
    async with app.open_async():
        yield app


def _register(app: procrastinate.App, job: Job) -> None:
    async def run(context: procrastinate.JobContext, /, **arguments: Any) -> None:
        if job.cron:
            del arguments["timestamp"]
        try:
            await job.run(**arguments)
            if job.then:
                await _hand_on(app, job.then, arguments)
        except Exception as error:
            given_up = context.job.attempts >= MAX_RETRIES
            level = logging.ERROR if given_up else logging.WARNING
            log.log(
                level, "job failed", job=job.name, id=context.job.id, given_up=given_up, fault=describe_fault(error)
            )
            raise
        log.log(logging.DEBUG if job.cron else logging.INFO, "job done", job=job.name)

    retry = procrastinate.RetryStrategy(max_attempts=MAX_RETRIES, exponential_wait=2)
    task: Any = app.task(name=job.name, retry=retry, pass_context=True)(run)
    if job.cron:
        app.periodic(cron=job.cron)(task)


async def _hand_on(app: procrastinate.App, name: JobName, arguments: dict[str, Any]) -> None:
    with suppress(AlreadyEnqueued):
        await app.configure_task(name, queueing_lock=only_one(name, **arguments)).defer_async(**arguments)


async def run_worker(
    settings: DatabaseSettings, jobs: Sequence[Job], *, stop: asyncio.Event, ready: Callable[[], None]
) -> None:
    """Run jobs until `stop` is set, whether the database is there all the time or not.

    `ready` is called whenever the connections stand. Jobs in hand at the end get 2 s; what is broken off then is
    taken up again by the next worker.
    """
    stopping = asyncio.create_task(stop.wait())
    working: asyncio.Task[None] | None = None
    try:
        while not stop.is_set():
            working = asyncio.create_task(_work(settings, jobs, ready))
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set() and (error := working.exception()):
                if not isinstance(error, ConnectorException | psycopg.Error | OSError):
                    raise error
                log.warning("worker lost the database, connecting again", error=type(error).__name__)
                await asyncio.wait((stopping,), timeout=RECONNECT_SECONDS)
    finally:
        stopping.cancel()
        if working is not None:
            working.cancel()
            await asyncio.wait((working,))


async def _work(settings: DatabaseSettings, jobs: Sequence[Job], ready: Callable[[], None]) -> None:
    async with _opened(settings, jobs) as app:
        ready()
        chores = [asyncio.create_task(chore(app)) for chore in (_rescue_for_ever, _clean_for_ever)]
        try:
            await app.run_worker_async(
                install_signal_handlers=False,
                concurrency=CONCURRENCY,
                fetch_job_polling_interval=POLLING_SECONDS,
                shutdown_graceful_timeout=GRACE_SECONDS,
                listen_notify=True,
                delete_jobs="successful",
            )
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.wait(chores)


async def _rescue_for_ever(app: procrastinate.App) -> None:
    """Hand on the jobs of workers that died: procrastinate leaves them `doing` until somebody does."""
    while True:
        with suppress(ConnectorException):  # Away for a moment: the worker itself notices.
            for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_SECONDS):
                log.warning("job of a dead worker is run again", job=job.task_name)
                await app.job_manager.retry_job(job)
        await asyncio.sleep(STALLED_SECONDS / 3)


async def _clean_for_ever(app: procrastinate.App) -> None:
    """Delete jobs that failed for good, or were called off, long ago."""
    while True:
        with suppress(ConnectorException):  # as above
            await app.job_manager.delete_old_jobs(
                FAILED_KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
            )
        await asyncio.sleep(CLEAN_SECONDS)
