"""Removing a user for good: a chain of jobs, one in each service.

    chat -> file -> agent -> auth

A step removes all that its service has of the user in short transactions, each of which may be the last before a crash:
done again, it goes on where it was. The user's row, to which everything else refers by foreign keys, goes last: if a
service has written something for the user in the meantime, PostgreSQL refuses to remove it, and the chain begins again.
"""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.kit.jobs import JobName, JobQueue, only_one

STEPS = tuple(JobName(f"{service}.purge_user") for service in ("chat", "file", "agent", "auth"))
"""The jobs in their order. Arguments: `user_id`."""

QUIET = timedelta(seconds=6)
"""By then every service has heard that the user's sessions have ended, and writes nothing for the user any more."""


def purge_step(service: str) -> JobName:
    """The name of a service's step."""
    return STEPS[STEPS.index(JobName(f"{service}.purge_user"))]


def step_after(step: JobName) -> JobName:
    """The step that follows one that is not the last."""
    return STEPS[STEPS.index(step) + 1]


async def begin_purge(jobs: JobQueue, tx: AsyncConnection, user_id: UUID, *, at_once: bool) -> None:
    """Let the chain begin, if the transaction commits, at once or after QUIET; unless its beginning waits."""
    once = only_one(STEPS[0], user_id=user_id)
    await jobs.enqueue(tx, STEPS[0], once=once, after=None if at_once else QUIET, user_id=str(user_id))


async def without_chain(jobs: JobQueue, tx: AsyncConnection, user_ids: Sequence[UUID]) -> Sequence[UUID]:
    """Those of the users for whom no step waits or is being done."""
    names = {user_id: [only_one(step, user_id=user_id) for step in STEPS] for user_id in user_ids}
    under_way = await jobs.under_way(tx, [name for steps in names.values() for name in steps])
    return [user_id for user_id, steps in names.items() if under_way.isdisjoint(steps)]
