"""Where the agent service's objects meet."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from parley.agent.v1 import agent_service_pb2
from services.agent.domain.agents import Agents
from services.agent.domain.purge import Purge
from services.agent.jobs import PURGE_DELETED_AGENTS, PURGE_USER
from services.agent.servicer.agents import AgentServicer
from services.agent.settings import AgentSettings
from services.kit.calls import Registration
from services.kit.database import Database
from services.kit.identity import open_identity
from services.kit.ids import utc_now
from services.kit.jobs import Job
from services.kit.purge import step_after
from services.kit.server import Service
from services.kit.settings import DatabaseSettings

AGENT_SERVICE = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]


@asynccontextmanager
async def open_agent(settings: AgentSettings) -> AsyncIterator[Service]:
    """The agent service over its database, closed in reverse order at the end."""
    async with Database.open(settings, role="agent") as db, open_identity(settings, "agent") as identity:
        agents = Agents(
            db,
            clock=utc_now,
            max_per_user=settings.agent_max_per_user,
            deleted_kept=settings.deleted_agent_kept,
        )
        yield Service(
            name="agent",
            registrations=[Registration(AGENT_SERVICE, AgentServicer(agents))],
            identity=identity,
            is_ready=lambda: db.is_ready,
        )


@asynccontextmanager
async def open_agent_jobs(settings: DatabaseSettings) -> AsyncIterator[Sequence[Job]]:
    """What the worker does for agents."""
    async with Database.open(settings, role="agent") as db:
        purge = Purge(db, clock=utc_now)
        yield [
            Job(PURGE_USER, purge.purge_user, then=step_after(PURGE_USER)),
            Job(PURGE_DELETED_AGENTS, purge.purge_deleted_agents, cron="* * * * *"),
        ]
