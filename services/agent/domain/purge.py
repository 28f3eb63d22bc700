"""Removing for good: deleted agents when their time is over, the agents' step of `services.kit.purge`, old events."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from services.agent.repository.agents import AgentRows
from services.agent.repository.purge import PurgeRows
from services.kit.database import Database

log = structlog.get_logger()

AGENTS_AT_A_TIME = 100
REVISIONS_AT_A_TIME = 500
EXECUTIONS_AT_A_TIME = 100
EVENTS_AT_A_TIME = 5_000

Choose = Callable[[AgentRows], Awaitable[Sequence[UUID]]]


class Purge:
    """Removes agents with all that they have. It can be broken off and repeated anywhere, and two may do it at once."""

    def __init__(self, db: Database, *, clock: Callable[[], datetime], events_kept: timedelta) -> None:
        self._db = db
        self._clock = clock
        self._events_kept = events_kept

    async def purge_user(self, user_id: str) -> None:
        """Remove all agents of the user, those that were deleted before as well."""
        user = UUID(user_id)
        agents = await self._remove(lambda rows: rows.lock_of(user, AGENTS_AT_A_TIME))
        log.info("user purged from agents", user_id=user_id, agents=agents)

    async def purge_deleted_agents(self) -> None:
        """Remove the agents that can be undeleted no more."""
        now = self._clock()
        if agents := await self._remove(lambda rows: rows.lock_due(now, AGENTS_AT_A_TIME)):
            log.info("deleted agents purged", agents=agents)

    async def purge_events(self) -> None:
        """Remove the events of executions that ended long ago. What they have answered stays."""
        executions = 0
        while True:
            async with self._db.transaction() as tx:
                rows = PurgeRows(tx)
                ended = await rows.lock_ended(self._clock() - self._events_kept, EXECUTIONS_AT_A_TIME)
                if not ended:
                    break
                if await rows.delete_events(ended, EVENTS_AT_A_TIME) < EVENTS_AT_A_TIME:
                    await rows.mark_without_events(ended)
                    executions += len(ended)
        if executions:
            log.info("events purged", executions=executions)

    async def _remove(self, choose: Choose) -> int:
        """Remove what is chosen until nothing is; how many agents. Those chosen must not come back to life between."""
        agents = 0
        while True:
            async with self._db.transaction() as tx:
                rows = AgentRows(tx)
                agent_ids = await choose(rows)
                if not agent_ids:
                    return agents
                # By and by: an agent can have more of all than PostgreSQL removes before a statement took too long.
                executions = await PurgeRows(tx).lock_of(agent_ids, EXECUTIONS_AT_A_TIME)
                if executions:
                    await self._remove_executions(PurgeRows(tx), executions)
                elif await rows.delete_revisions(agent_ids, REVISIONS_AT_A_TIME) < REVISIONS_AT_A_TIME:
                    await rows.delete(agent_ids)
                    agents += len(agent_ids)

    async def _remove_executions(self, rows: PurgeRows, execution_ids: Sequence[UUID]) -> None:
        if await rows.delete_events(execution_ids, EVENTS_AT_A_TIME) < EVENTS_AT_A_TIME:
            await rows.delete(execution_ids)
