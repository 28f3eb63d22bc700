"""Executions while PostgreSQL does not answer for longer than their leases."""

import asyncio
from typing import Any

import psycopg

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.kit.database import libpq_url
from tests.agent.conftest import draft
from tests.agent.runs import get
from tests.auth.suite import eventually

LEASE_SECONDS = 4.0


async def test_after_an_outage_a_process_that_lives_keeps_what_it_runs(
    serve: Any, settings: Any, as_user: Any, database_url: str
) -> None:
    ann = as_user("ann")
    # To a service, statements that take too long are an outage.
    given = {"agent_port": 0, "agent_lease_seconds": LEASE_SECONDS, "database_statement_timeout": 0.2}
    rare = await serve(open_agent, settings(AgentSettings, agent_heartbeat_seconds=1.3, **given))
    agent = (await AgentServiceStub(rare).CreateAgent(draft(), metadata=ann)).agent
    executions = ExecutionServiceStub(rare)
    request = pb2.CreateExecutionRequest(agent_id=agent.id, input="many words that take their time to be said " * 200)
    ids = [(await executions.CreateExecution(request, metadata=ann)).execution.id for _ in range(5)]
    url = libpq_url(database_url)
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as looking,
        await psycopg.AsyncConnection.connect(url) as locking,
    ):

        async def all_run() -> bool:
            found = await looking.execute("SELECT count(*) FROM agent.executions WHERE appended > 1")
            return await found.fetchone() == (len(ids),)

        async def nobody_asks() -> bool:
            found = await looking.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return await found.fetchone() == (0,)

        await eventually(all_run)
        await serve(open_agent, settings(AgentSettings, agent_heartbeat_seconds=0.1, **given))
        await locking.execute("LOCK TABLE agent.executions")
        await asyncio.sleep(LEASE_SECONDS + 0.5)
        await eventually(nobody_asks)  # Who asks next is the other process, most of the time.
        await locking.rollback()
    await asyncio.sleep(2)
    kept = [await get(executions, id_, ann) for id_ in ids]
    assert [(one.state, one.attempt) for one in kept] == [(pb2.EXECUTION_STATE_RUNNING, 1)] * len(ids)
