"""Removing a user for good: the agents' step of `services.kit.purge`."""

from uuid import UUID

import structlog

from services.agent.repository import AgentRows
from services.kit.database import Database

log = structlog.get_logger()

AGENTS_AT_A_TIME = 100


class Purge:
    """Removes a user's agents. It can be broken off and repeated anywhere, and two may do it at once."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def purge_user(self, user_id: str) -> None:
        """Remove all agents of the user, those that were deleted before as well."""
        agents = 0
        while removed := await self._remove_some(UUID(user_id)):
            agents += removed
        log.info("user purged from agents", user_id=user_id, agents=agents)

    async def _remove_some(self, user_id: UUID) -> int:
        async with self._db.transaction() as tx:
            return await AgentRows(tx).purge(user_id, AGENTS_AT_A_TIME)
