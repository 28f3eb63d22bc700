"""Removing a user for good: a chain of jobs, one in each service.

    chat -> file -> agent -> auth

A step removes all that its service has of the user in short transactions, each of which may be the last before a crash:
done again, it goes on where it was. The user's row, to which everything else refers by foreign keys, goes last: if a
service has written something for the user in the meantime, PostgreSQL refuses to remove it, and the chain begins again.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.kit.jobs import JobName, JobQueue, only_one

STEPS = tuple(JobName(f"{service}.purge_user") for service in ("chat", "file", "agent", "auth"))
"""The jobs in their order. Arguments: `user_id`."""


def purge_step(service: str) -> JobName:
    """The name of a service's step."""
    return STEPS[STEPS.index(JobName(f"{service}.purge_user"))]


def step_after(step: JobName) -> JobName:
    """The step that follows one that is not the last."""
    return STEPS[STEPS.index(step) + 1]


async def begin_purge(jobs: JobQueue, tx: AsyncConnection, user_id: UUID, *, after: timedelta | None = None) -> None:
    """Let the chain begin once the transaction has committed, or some time `after`; unless its beginning waits."""
    once = only_one(STEPS[0], user_id=user_id)
    await jobs.enqueue(tx, STEPS[0], once=once, after=after, user_id=str(user_id))


async def is_under_way(jobs: JobQueue, tx: AsyncConnection, user_id: UUID) -> bool:
    """Whether a step waits or is being done for the user."""
    return bool(await jobs.under_way(tx, [only_one(step, user_id=user_id) for step in STEPS]))
