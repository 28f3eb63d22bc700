"""Agents and their revisions."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Insert,
    Uuid,
    any_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.models.agents import Agent, AgentKey, AgentTable, Changes, Revision, RevisionTable
from services.kit.filters import Filter, boolean, caseless, text
from services.kit.listing import NewestFirst
from services.kit.ordering import Order, Ordering, by_moment, by_number, by_text
from services.kit.pages import Page, PageRequest
from services.kit.prepared import Prepared

FILTER = Filter(
    {
        "name": caseless(AgentTable.name),
        "model_name": text(AgentTable.model_name),
        "is_active": boolean(AgentTable.is_active),
    }
)
"""What the list of agents can be filtered by."""

ORDERING = Ordering(
    {
        "create_time": by_moment(AgentTable.create_time),
        "update_time": by_moment(AgentTable.update_time),
        "name": by_text(AgentTable.name),
    }
)
"""What the list of agents can be ordered by."""

REQUEST_IDS_KEPT = timedelta(days=1)
"""How long the row of a creation that was given a `request_id` stays at the least, so that a retry is recognised."""

_COLUMNS = tuple(getattr(AgentTable, name) for name in Agent._fields)
_REVISION = tuple(getattr(RevisionTable, name) for name in Revision._fields)
_OWNED = AgentTable.user_id == bindparam("user_id")
_OWN = (_OWNED, AgentTable.delete_time.is_(None))
_COUNT = select(func.count()).select_from(AgentTable).where(*_OWN)
_ONE = select(*_COLUMNS).where(AgentTable.id == bindparam("id"), *_OWN)
_AMONG = AgentTable.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
_FIND = Prepared(select(*_COLUMNS).where(_AMONG, AgentTable.delete_time.is_(None)))
_GET_FOR_UPDATE = _ONE.with_for_update()
_GET_DELETED_OR_NOT = select(*_COLUMNS).where(AgentTable.id == bindparam("id"), _OWNED).with_for_update()
_LIST = NewestFirst(Agent._make, _COLUMNS, *_OWN, hot=True)
_LIST_WITH_DELETED = NewestFirst(
    Agent._make, _COLUMNS, _OWNED, or_(AgentTable.delete_time.is_(None), AgentTable.purge_time > bindparam("now"))
)
_FIND_CREATED = select(AgentTable.draft_digest, *_COLUMNS).where(
    AgentTable.user_id == bindparam("user_id"), AgentTable.request_id == bindparam("request_id")
)
_REVISIONS = NewestFirst(
    Revision._make,
    _REVISION,
    RevisionTable.agent_id == bindparam("agent_id"),
    exists().where(AgentTable.id == bindparam("agent_id"), *_OWN),
)
_NEWEST_REVISION_FIRST = Ordering({"revision": by_number(RevisionTable.revision)}).read("revision desc")
_GET_REVISION = select(*_REVISION).where(
    RevisionTable.agent_id == bindparam("agent_id"), RevisionTable.revision == bindparam("revision")
)


def _keep(changed: CTE) -> Insert:
    """Add to the revisions what an agent has become by a statement."""
    columns = {"agent_id": "id", "create_time": "update_time"}
    return insert(RevisionTable).from_select(
        Revision._fields, select(*(changed.c[columns.get(name, name)] for name in Revision._fields))
    )


_NEW = [column for column in AgentTable.__table__.columns if column.key not in ("delete_time", "purge_time")]
_NAMES = [column.key for column in _NEW]
# One statement for both tables and the limit. Nothing is added that another creation had the same `request_id` for.
_INSERT_IF_ROOM = Prepared(
    _keep(
        insert(AgentTable)
        .from_select(
            _NAMES,
            select(*(bindparam(column.key, type_=column.type) for column in _NEW)).where(
                _COUNT.scalar_subquery() < bindparam("limit")
            ),
        )
        .on_conflict_do_nothing(index_elements=[AgentTable.user_id, AgentTable.request_id])
        .returning(*_COLUMNS)
        .cte("created")
    ).returning(RevisionTable.agent_id)
)


class AgentRows:
    """The agents, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def find(self, keys: Sequence[AgentKey]) -> Mapping[AgentKey, Agent]:
        """The agents that there are of these. An id under another user's than the agent's own finds nothing."""
        rows = await _FIND.all(self._tx, {"ids": [agent_id for _, agent_id in keys]})
        return {(agent.user_id, agent.id): agent for agent in map(Agent._make, rows)}

    async def get_for_update(self, user_id: UUID, agent_id: UUID) -> Agent | None:
        """The user's agent of this id, locked until the transaction ends."""
        row = (await self._tx.execute(_GET_FOR_UPDATE, {"id": agent_id, "user_id": user_id})).first()
        return None if row is None else Agent._make(row)

    async def get_deleted_or_not(self, user_id: UUID, agent_id: UUID) -> Agent | None:
        """The user's agent of this id, deleted or not, locked until the transaction ends."""
        row = (await self._tx.execute(_GET_DELETED_OR_NOT, {"id": agent_id, "user_id": user_id})).first()
        return None if row is None else Agent._make(row)

    async def list_present(
        self, user_id: UUID, page: PageRequest, conditions: Sequence[ColumnElement[bool]], order: Order | None
    ) -> Page[Agent]:
        """A page of the user's agents that meet conditions, newest first unless there is an order.

        It tells how many there are in all, at one moment. Raises PageTokenInvalid.
        """
        return await _LIST.page(self._tx, page, *conditions, order=order, user_id=user_id)

    async def list_with_deleted(
        self,
        user_id: UUID,
        page: PageRequest,
        conditions: Sequence[ColumnElement[bool]],
        order: Order | None,
        now: datetime,
    ) -> Page[Agent]:
        """The same with deleted agents that can be undeleted."""
        return await _LIST_WITH_DELETED.page(self._tx, page, *conditions, order=order, user_id=user_id, now=now)

    async def find_created(self, user_id: UUID, request_id: UUID) -> tuple[bytes, Agent] | None:
        """What the user's request of this id asked for, as a digest, and the agent that it created, deleted or not."""
        row = (await self._tx.execute(_FIND_CREATED, {"user_id": user_id, "request_id": request_id})).first()
        if row is None:
            return None
        digest, *columns = row
        return digest, Agent._make(columns)

    async def count(self, user_id: UUID) -> int:
        """How many agents the user has."""
        return (await self._tx.execute(_COUNT, {"user_id": user_id})).scalar_one()

    async def insert_if_room(
        self, agent: Agent, request_id: UUID | None, draft_digest: bytes | None, *, limit: int
    ) -> bool:
        """Add an agent and its first revision; whether that was done.

        It is not where the user has as many as the limit, or has used the request's id before.
        """
        values = {**agent._asdict(), "config": Jsonb(agent.config), "request_id": request_id, "limit": limit}
        return await _INSERT_IF_ROOM.first(self._tx, values | {"draft_digest": draft_digest}) is not None

    async def update(self, agent_id: UUID, changes: Changes, now: datetime) -> Agent:
        """Change an agent that is locked: its next revision, which is kept."""
        values: Mapping[str, Any] = {**changes, "revision": AgentTable.revision + 1, "update_time": now}
        changed = update(AgentTable).where(AgentTable.id == agent_id).values(values).returning(*_COLUMNS).cte("changed")
        statement = select(*changed.c).add_cte(_keep(changed).cte("kept"))
        return Agent._make((await self._tx.execute(statement)).one())

    async def set_deletion(self, agent_id: UUID, delete_time: datetime | None, purge_time: datetime | None) -> Agent:
        """Mark an agent that is locked as deleted, or as not deleted."""
        statement = (
            update(AgentTable)
            .where(AgentTable.id == agent_id)
            .values(delete_time=delete_time, purge_time=purge_time)
            .returning(*_COLUMNS)
        )
        return Agent._make((await self._tx.execute(statement)).one())

    async def list_revisions(self, user_id: UUID, agent_id: UUID, page: PageRequest) -> Page[Revision]:
        """A page of the revisions of the user's agent, newest first, and how many there are in all, at one moment.

        There are none of an agent that is deleted or somebody else's. Raises PageTokenInvalid.
        """
        return await _REVISIONS.page(self._tx, page, order=_NEWEST_REVISION_FIRST, agent_id=agent_id, user_id=user_id)

    async def get_revision(self, agent_id: UUID, revision: int) -> Revision | None:
        """One revision of an agent."""
        row = (await self._tx.execute(_GET_REVISION, {"agent_id": agent_id, "revision": revision})).first()
        return None if row is None else Revision._make(row)

    async def lock_of(self, user_id: UUID, limit: int) -> Sequence[UUID]:
        """Some agents of a user, deleted or not, locked until the transaction ends."""
        statement = select(AgentTable.id).where(AgentTable.user_id == user_id).order_by(AgentTable.id).limit(limit)
        return (await self._tx.execute(statement.with_for_update())).scalars().all()

    async def lock_due(self, now: datetime, limit: int) -> Sequence[UUID]:
        """Some deleted agents whose time is over, locked, without those that others hold."""
        forgettable = or_(AgentTable.request_id.is_(None), AgentTable.create_time <= now - REQUEST_IDS_KEPT)
        statement = (
            select(AgentTable.id)
            .where(AgentTable.purge_time <= now, forgettable)
            .order_by(AgentTable.purge_time)
            .limit(limit)
        )
        return (await self._tx.execute(statement.with_for_update(skip_locked=True))).scalars().all()

    async def delete_revisions(self, agent_ids: Sequence[UUID], limit: int) -> int:
        """Remove some revisions of agents; how many."""
        key = tuple_(RevisionTable.agent_id, RevisionTable.revision)
        some = select(RevisionTable.agent_id, RevisionTable.revision).where(RevisionTable.agent_id.in_(agent_ids))
        return (await self._tx.execute(delete(RevisionTable).where(key.in_(some.limit(limit))))).rowcount

    async def delete(self, agent_ids: Sequence[UUID]) -> None:
        """Remove agents for good."""
        await self._tx.execute(delete(AgentTable).where(AgentTable.id.in_(agent_ids)))
