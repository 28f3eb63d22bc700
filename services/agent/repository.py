"""Every SQL statement of the agent service."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.models import Agent, AgentTable
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest
from services.kit.prepared import Prepared

_COLUMNS = tuple(getattr(AgentTable, name) for name in Agent._fields)
_OWN = (AgentTable.user_id == bindparam("user_id"), AgentTable.delete_time.is_(None))
_COUNT = select(func.count()).select_from(AgentTable).where(*_OWN)
_ONE = select(*_COLUMNS).where(AgentTable.id == bindparam("id"), *_OWN)
_GET = Prepared(_ONE)
_GET_FOR_UPDATE = _ONE.with_for_update()
_LIST = NewestFirst(Agent._make, _COLUMNS, *_OWN)
_LOCK_OWNER = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("owner"), 0)))
_FIND_CREATED = select(AgentTable.draft_digest, AgentTable.delete_time, *_COLUMNS).where(
    AgentTable.user_id == bindparam("user_id"), AgentTable.request_id == bindparam("request_id")
)
_INSERT = insert(AgentTable)


class AgentRows:
    """The agents, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def get(self, user_id: UUID, agent_id: UUID) -> Agent | None:
        """The user's agent of this id."""
        row = await _GET.first(self._tx, {"id": agent_id, "user_id": user_id})
        return None if row is None else Agent._make(row)

    async def get_for_update(self, user_id: UUID, agent_id: UUID) -> Agent | None:
        """The same, locked until the transaction ends."""
        row = (await self._tx.execute(_GET_FOR_UPDATE, {"id": agent_id, "user_id": user_id})).first()
        return None if row is None else Agent._make(row)

    async def list_newest_first(self, user_id: UUID, page: PageRequest) -> Page[Agent]:
        """A page of the user's agents, newest first, and how many there are in all, at one moment."""
        return await _LIST.page(self._tx, page, user_id=user_id)

    async def lock_owner(self, user_id: UUID) -> None:
        """Let nobody else create an agent for this user until the transaction ends."""
        await self._tx.execute(_LOCK_OWNER, {"owner": f"agent:{user_id}"})

    async def find_created(self, user_id: UUID, request_id: UUID) -> tuple[bytes, Agent | None] | None:
        """What the user's request of this id asked for, as a digest, and the agent that it created if still there."""
        row = (await self._tx.execute(_FIND_CREATED, {"user_id": user_id, "request_id": request_id})).first()
        if row is None:
            return None
        digest, delete_time, *columns = row
        return digest, Agent._make(columns) if delete_time is None else None

    async def count(self, user_id: UUID) -> int:
        """How many agents the user has."""
        return (await self._tx.execute(_COUNT, {"user_id": user_id})).scalar_one()

    async def insert(self, agent: Agent, request_id: UUID | None, draft_digest: bytes | None) -> None:
        """Add an agent."""
        await self._tx.execute(_INSERT, {**agent._asdict(), "request_id": request_id, "draft_digest": draft_digest})

    async def update(self, agent_id: UUID, changes: Mapping[str, Any], now: datetime) -> Agent:
        """Set columns of an agent that is locked: its next revision."""
        statement = (
            update(AgentTable)
            .where(AgentTable.id == agent_id)
            .values(**changes, revision=AgentTable.revision + 1, update_time=now)
            .returning(*_COLUMNS)
        )
        return Agent._make((await self._tx.execute(statement)).one())

    async def delete(self, agent_id: UUID, now: datetime) -> None:
        """Mark an agent that is locked as deleted."""
        await self._tx.execute(update(AgentTable).where(AgentTable.id == agent_id).values(delete_time=now))

    async def purge(self, user_id: UUID, limit: int) -> int:
        """Remove some agents of a user, deleted or not; how many."""
        chosen = select(AgentTable.id).where(AgentTable.user_id == user_id).order_by(AgentTable.id).limit(limit)
        return (await self._tx.execute(delete(AgentTable).where(AgentTable.id.in_(chosen)))).rowcount
