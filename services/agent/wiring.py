"""Where the agent service's objects meet."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import SecretStr

from parley.agent.v1 import agent_service_pb2, execution_service_pb2
from services.agent.domain.agents import Agents
from services.agent.domain.executions import Executions
from services.agent.domain.keeper import Keeper
from services.agent.domain.purge import Purge
from services.agent.domain.rounds import Rounds
from services.agent.domain.runner import RunLimits, Runner
from services.agent.domain.scribe import Scribe
from services.agent.domain.states import States
from services.agent.domain.watching import ExecutionEvents, Watching
from services.agent.input_files import open_input_files
from services.agent.jobs import PURGE_DELETED_AGENTS, PURGE_EVENTS, PURGE_USER
from services.agent.models.events import Event
from services.agent.providers.routing import Account, Providers
from services.agent.servicer.agents import AgentServicer
from services.agent.servicer.executions import ExecutionServicer
from services.agent.settings import AgentJobSettings, AgentSettings
from services.agent.tools import Tools
from services.agent.tools.remote import McpTools
from services.kit.background import in_background
from services.kit.bus import Bus, open_bus
from services.kit.calls import Registration
from services.kit.database import Database
from services.kit.feed import Feed, open_feed
from services.kit.identity import open_identity
from services.kit.ids import utc_now
from services.kit.jobs import Job
from services.kit.purge import step_after
from services.kit.server import Service

AGENT_SERVICE = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
EXECUTION_SERVICE = execution_service_pb2.DESCRIPTOR.services_by_name["ExecutionService"]

RUN_CONNECTIONS = 4


@asynccontextmanager
async def open_agent(settings: AgentSettings) -> AsyncIterator[Service]:
    """The agent service over its database, bus and providers, closed in reverse order at the end."""
    unwatched_for = timedelta(seconds=settings.agent_unwatched_seconds)
    tools = McpTools(settings.mcp_servers, call_seconds=settings.agent_tool_seconds)
    async with (
        Database.open(settings, role="agent") as db,
        open_bus(settings, "agent", role="agent") as bus,
        open_feed(bus, ExecutionEvents(db), "execution") as events,
        _providers(settings) as providers,
        open_input_files(settings.file_address) as files,
        _running(settings, bus, events, providers, tools) as states,
        open_identity(settings, "agent") as identity,
    ):
        agents = Agents(
            db,
            states,
            clock=utc_now,
            max_per_user=settings.agent_max_per_user,
            deleted_kept=settings.deleted_agent_kept,
        )
        executions = Executions(
            db,
            agents,
            states,
            providers,
            tools,
            files,
            clock=utc_now,
            max_open_per_user=settings.agent_max_open_per_user,
            unwatched_for=unwatched_for,
        )
        watching = Watching(db, events, unwatched_for=unwatched_for)
        async with in_background(watching.renew_for_ever(), "watches"):
            yield Service(
                name="agent",
                registrations=[
                    Registration(AGENT_SERVICE, AgentServicer(agents)),
                    Registration(
                        EXECUTION_SERVICE,
                        ExecutionServicer(executions, watching),
                        followers=frozenset({"RunExecution", "WatchExecution"}),
                    ),
                ],
                identity=identity,
                is_ready=lambda: db.is_ready,
            )


@asynccontextmanager
async def _running(
    settings: AgentSettings, bus: Bus, events: Feed[Event], providers: Providers, tools: Tools
) -> AsyncIterator[States]:
    """Run executions for the time of the block, and let others change them. What runs at its end waits for another."""
    limits = RunLimits(
        at_a_time=settings.agent_max_running,
        per_user=settings.agent_max_running_per_user,
        longest=timedelta(seconds=settings.agent_run_seconds),
        lease=timedelta(seconds=settings.agent_lease_seconds),
        heartbeat=timedelta(seconds=settings.agent_heartbeat_seconds),
    )
    # Connections of their own, so that leases are renewed and texts stored however many calls wait for one.
    own = settings.model_copy(update={"database_pool_size": RUN_CONNECTIONS})
    async with Database.open(own, role="agent") as db:
        states = States(events, bus, clock=utc_now)
        scribe = Scribe(db, events, states, clock=utc_now)
        rounds = Rounds(db, providers, tools, max_rounds=settings.agent_max_tool_rounds)
        runner = Runner(db, bus, scribe, rounds, states, limits, utc_now)
        async with (
            in_background(scribe.store_for_ever(), "scribe"),
            in_background(Keeper(db, runner, scribe, states, limits).keep_for_ever(), "keeper"),
        ):
            try:
                async with in_background(runner.take_for_ever(), "runner"):
                    yield states
            finally:
                await runner.close()


@asynccontextmanager
async def _providers(settings: AgentSettings) -> AsyncIterator[Providers]:
    async with Providers.open(
        settings.model_routes,
        echo_pace=settings.agent_echo_delay_ms / 1000,
        anthropic=_account(settings.agent_anthropic_api_key, settings.agent_anthropic_base_url),
        openai=_account(settings.agent_openai_api_key, settings.agent_openai_base_url),
        silence=settings.agent_provider_silence,
        retries=settings.agent_provider_retries,
    ) as providers:
        yield providers


def _account(key: SecretStr | None, url: str) -> Account:
    return Account(key.get_secret_value() if key else None, url or None)


@asynccontextmanager
async def open_agent_jobs(settings: AgentJobSettings) -> AsyncIterator[Sequence[Job]]:
    """What the worker does for agents."""
    async with Database.open(settings, role="agent") as db:
        purge = Purge(db, clock=utc_now, events_kept=timedelta(seconds=settings.agent_events_kept))
        yield [
            Job(PURGE_USER, purge.purge_user, then=step_after(PURGE_USER)),
            Job(PURGE_DELETED_AGENTS, purge.purge_deleted_agents, cron="* * * * *"),
            Job(PURGE_EVENTS, purge.purge_events, cron="17 * * * *"),
        ]
