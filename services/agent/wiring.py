"""Where the agent service's objects meet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from parley.agent.v1 import agent_service_pb2
from services.agent.domain.agents import Agents
from services.agent.servicer import AgentServicer
from services.agent.settings import AgentSettings
from services.kit.access import TokenVerifier
from services.kit.calls import Registration
from services.kit.database import Database
from services.kit.ids import utc_now
from services.kit.jwks import open_remote_keys
from services.kit.server import Service

AGENT_SERVICE = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]


@asynccontextmanager
async def open_agent(settings: AgentSettings) -> AsyncIterator[Service]:
    """The agent service over its database, closed in reverse order at the end."""
    async with Database.open(settings, role="agent") as db, open_remote_keys(settings.auth_address) as keys:
        agents = Agents(db, clock=utc_now, max_per_user=settings.agent_max_per_user)
        yield Service(
            name="agent",
            registrations=[Registration(AGENT_SERVICE, AgentServicer(agents))],
            verifier=TokenVerifier(keys, issuer=settings.token_issuer, audience=settings.token_audience),
            is_ready=lambda: db.is_ready,
        )
