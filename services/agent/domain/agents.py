"""What can be done with agents. A user's agents are nobody else's: for others they do not exist."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.agent.domain.states import States
from services.agent.errors import (
    AgentDeleted,
    AgentLimitReached,
    AgentNotDeleted,
    AgentNotFound,
    ConfigInvalid,
    EtagMismatch,
    RevisionNotFound,
)
from services.agent.models.agents import Agent, AgentKey, Changes, Draft, Revision
from services.agent.repository.agents import FILTER, ORDERING, AgentRows
from services.agent.repository.executions import of_agent
from services.kit.coalesce import Coalesced
from services.kit.database import Database
from services.kit.errors import FieldViolation, QuotaViolation, RequestIdReused
from services.kit.ids import uuid7
from services.kit.pages import Page, PageRequest

MAX_CONFIG_BYTES = 64 * 1024
MAX_CONFIG_DEPTH = 32


class Agents:
    """The agents of all users."""

    def __init__(
        self, db: Database, states: States, *, clock: Callable[[], datetime], max_per_user: int, deleted_kept: timedelta
    ) -> None:
        self._db = db
        self._states = states
        self._clock = clock
        self._max_per_user = max_per_user
        self._deleted_kept = deleted_kept
        self._reads = Coalesced(self._find)

    async def create_agent(self, user_id: UUID, draft: Draft, request_id: UUID | None) -> Agent:
        """Create an agent. The same draft under the same `request_id` gives the agent that the first one created.

        Raises ConfigInvalid, AgentLimitReached, RequestIdReused, and AgentNotFound if that agent was deleted since.
        """
        _check_config(draft.config, "config")
        digest = _digest(draft) if request_id else None
        now = self._clock()
        agent = Agent(
            id=uuid7(),
            user_id=user_id,
            name=draft.name,
            description=draft.description,
            model_name=draft.model_name,
            system_prompt=draft.system_prompt,
            config=draft.config,
            is_active=draft.is_active,
            revision=1,
            create_time=now,
            update_time=now,
        )
        async with self._db.transaction(lock=_adding_to(user_id)) as tx:
            rows = AgentRows(tx)
            if await rows.insert_if_room(agent, request_id, digest, limit=self._max_per_user):
                return agent
            created = await rows.find_created(user_id, request_id) if request_id else None
        if created is None:
            raise self._limit_reached(user_id)
        first_digest, first = created
        if first_digest != digest:
            raise RequestIdReused
        if first.delete_time is not None:
            raise AgentNotFound
        return first

    async def get_agent(self, user_id: UUID, agent_id: UUID) -> Agent:
        """The user's agent of this id. Raises AgentNotFound."""
        return _found(await self._reads.get((user_id, agent_id)))

    async def list_agents(
        self, user_id: UUID, page: PageRequest, *, written_filter: str, order_by: str, show_deleted: bool
    ) -> Page[Agent]:
        """A page of the user's agents that a filter lets through, newest first unless another order is asked for.

        Raises FilterInvalid, ValidationFailed, PageTokenInvalid.
        """
        conditions, order = FILTER.read(written_filter), ORDERING.read(order_by)
        async with self._db.read() as tx:
            rows = AgentRows(tx)
            if show_deleted:
                return await rows.list_with_deleted(user_id, page, conditions, order, self._clock())
            return await rows.list_present(user_id, page, conditions, order)

    async def update_agent(self, user_id: UUID, agent_id: UUID, changes: Changes, etag: str) -> Agent:
        """Change an agent and return it as it is then: a new revision, unless every field has its new value already.

        Raises AgentNotFound, EtagMismatch, ConfigInvalid.
        """
        if "config" in changes:
            _check_config(changes["config"], "agent.config")
        async with self._db.transaction() as tx:
            rows = AgentRows(tx)
            agent = await self._get_expected(rows, user_id, agent_id, etag)
            return await self._change(rows, agent, changes)

    async def delete_agent(self, user_id: UUID, agent_id: UUID, etag: str) -> Agent:
        """Delete an agent; for a while that can be taken back. Its executions that have not ended are cancelled.

        Raises AgentNotFound, EtagMismatch.
        """
        now = self._clock()
        async with self._db.transaction() as tx:
            rows = AgentRows(tx)
            agent = await self._get_expected(rows, user_id, agent_id, etag)
            deleted = await rows.set_deletion(agent.id, now, now + self._deleted_kept)
            cancelled = await self._states.cancel(tx, of_agent(agent.id), because=AgentDeleted())
        self._states.tell(cancelled)
        return deleted

    async def undelete_agent(self, user_id: UUID, agent_id: UUID) -> Agent:
        """Take back a deletion. Raises AgentNotFound, AgentNotDeleted, AgentLimitReached."""
        async with self._db.transaction(lock=_adding_to(user_id)) as tx:
            rows = AgentRows(tx)
            agent = _found(await rows.get_deleted_or_not(user_id, agent_id))
            if agent.purge_time is None:
                raise AgentNotDeleted
            if agent.purge_time <= self._clock():  # Its removal may have begun.
                raise AgentNotFound
            if await rows.count(user_id) >= self._max_per_user:
                raise self._limit_reached(user_id)
            return await rows.set_deletion(agent.id, None, None)

    async def list_agent_revisions(self, user_id: UUID, agent_id: UUID, page: PageRequest) -> Page[Revision]:
        """A page of the agent's revisions, newest first. Raises AgentNotFound, PageTokenInvalid."""
        async with self._db.read() as tx:
            found = await AgentRows(tx).list_revisions(user_id, agent_id, page)
        if not found.total_size:  # Every agent has its present revision.
            raise AgentNotFound
        return found

    async def rollback_agent(self, user_id: UUID, agent_id: UUID, revision: int, etag: str) -> Agent:
        """Give an agent the content of one of its revisions again: a new revision, unless it has that content already.

        Raises AgentNotFound, RevisionNotFound, EtagMismatch.
        """
        async with self._db.transaction() as tx:
            rows = AgentRows(tx)
            agent = await self._get_expected(rows, user_id, agent_id, etag)
            old = await rows.get_revision(agent.id, revision)
            if old is None:
                raise RevisionNotFound
            return await self._change(rows, agent, old.content)

    async def _find(self, keys: Sequence[AgentKey]) -> Mapping[AgentKey, Agent]:
        async with self._db.read() as tx:
            return await AgentRows(tx).find(keys)

    async def _change(self, rows: AgentRows, agent: Agent, changes: Changes) -> Agent:
        """Give an agent that is locked these values, if one is another than it has."""
        different: Any = {
            name: value for name, value in changes.items() if _canonical(value) != _canonical(getattr(agent, name))
        }
        return await rows.update(agent.id, different, self._clock()) if different else agent

    def _limit_reached(self, user_id: UUID) -> AgentLimitReached:
        return AgentLimitReached(quota=[QuotaViolation(f"user:{user_id}", f"{self._max_per_user} agents")])

    async def _get_expected(self, rows: AgentRows, user_id: UUID, agent_id: UUID, etag: str) -> Agent:
        agent = _found(await rows.get_for_update(user_id, agent_id))
        if etag and etag != agent.etag:
            raise EtagMismatch
        return agent


def _adding_to(user_id: UUID) -> str:
    """The lock under which agents are added to a user's, so that the limit holds."""
    return f"agent:{user_id}"


def _found(agent: Agent | None) -> Agent:
    if agent is None:
        raise AgentNotFound
    return agent


def _digest(draft: Draft) -> bytes:
    """Equal for equal drafts, whatever the order of keys in `config`."""
    return hashlib.sha256(_canonical(asdict(draft))).digest()


def _canonical(value: object) -> bytes:
    """Equal for equal JSON; unlike `==`, it tells `true` from 1."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _check_config(config: dict[str, Any], field: str) -> None:
    """Raises ConfigInvalid unless the config can be given back as it came. `field` is its path in the request."""
    problem = _problem(config, depth=1)
    if problem is None and len(_canonical(config)) > MAX_CONFIG_BYTES:
        problem = f"must be at most {MAX_CONFIG_BYTES} bytes as JSON"
    if problem:
        raise ConfigInvalid(fields=[FieldViolation(field, problem)])


def _problem(value: object, depth: int) -> str | None:
    match value:
        case dict() | list() if depth > MAX_CONFIG_DEPTH:
            return f"must not be nested deeper than {MAX_CONFIG_DEPTH} levels"
        case dict():
            return next((p for item in value.values() if (p := _problem(item, depth + 1))), None)
        case list():
            return next((p for item in value if (p := _problem(item, depth + 1))), None)
        case int() | float() if not abs(value) < 2**53:  # NaN compares as neither
            return "must hold only numbers between -(2^53 - 1) and 2^53 - 1"
        case _:
            return None
