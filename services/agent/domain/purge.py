"""Removing agents for good: deleted ones when their time is over, and the agents' step of `services.kit.purge`."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

import structlog

from services.agent.repository.agents import AgentRows
from services.kit.database import Database

log = structlog.get_logger()

AGENTS_AT_A_TIME = 100
REVISIONS_AT_A_TIME = 500

Choose = Callable[[AgentRows], Awaitable[Sequence[UUID]]]


class Purge:
    """Removes agents with their revisions. It can be broken off and repeated anywhere, and two may do it at once."""

    def __init__(self, db: Database, *, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._clock = clock

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

    async def _remove(self, choose: Choose) -> int:
        """Remove what is chosen until nothing is; how many agents. Those chosen must not come back to life between."""
        agents = 0
        while True:
            async with self._db.transaction() as tx:
                rows = AgentRows(tx)
                agent_ids = await choose(rows)
                if not agent_ids:
                    return agents
                # By and by: an agent can have more revisions than PostgreSQL removes before a statement took too long.
                if await rows.delete_revisions(agent_ids, REVISIONS_AT_A_TIME) < REVISIONS_AT_A_TIME:
                    await rows.delete(agent_ids)
                    agents += len(agent_ids)
