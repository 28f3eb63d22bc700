"""Attempts at executions: one that was lost and begun again in the same process, and one that meets an outage."""

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.domain.journal import Journal, LeaseLost
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.kit.database import libpq_url
from services.kit.ids import utc_now
from tests.agent.conftest import Create, draft
from tests.agent.providers.script import Say, Wait, saying
from tests.agent.providers.server import ProviderServer
from tests.agent.runs import get, watch, watching
from tests.auth.suite import eventually

# What another process does whose clock says that the lease is over.
RESCUE = """
WITH lost AS (
    UPDATE agent.executions SET state = 'QUEUED', lease_expire_time = NULL, losses = losses + 1,
    last_sequence = last_sequence + 1 WHERE id = %s RETURNING id, last_sequence, attempt
)
INSERT INTO agent.execution_events (execution_id, sequence, attempt, kind, data, create_time)
SELECT id, last_sequence, attempt, 'state', '{"state": "QUEUED", "reason": null, "message": null}', now() FROM lost
"""


async def test_an_attempt_is_given_up_when_its_own_process_takes_the_execution_again(
    serve: Any, settings: Any, as_user: Any, database_url: str
) -> None:
    ann = as_user("ann")
    async with ProviderServer() as provider:
        given = {"agent_model_routes": "*=openai", "agent_openai_base_url": provider.openai_url}
        channel = await serve(open_agent, settings(AgentSettings, agent_port=0, **given))
        agent = (await AgentServiceStub(channel).CreateAgent(draft(), metadata=ann)).agent
        executions = ExecutionServiceStub(channel)
        provider.will(Say(["the first "]), Wait())
        provider.will(*saying("the second"))
        request = pb2.CreateExecutionRequest(agent_id=agent.id, input="go")
        created = (await executions.CreateExecution(request, metadata=ann)).execution
        async with watching(executions, created.id, ann) as call:
            async for response in call:
                if any(event.HasField("text_delta") for event in response.events):
                    break
        async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as connection:
            await connection.execute(RESCUE, (created.id,))
        # That there is another one makes the process look at once, before its next heartbeat.
        provider.otherwise = saying("another")
        await executions.CreateExecution(request, metadata=ann)
        told = await watch(executions, created.id, ann)
        assert (told.states[-1], told.text) == ("SUCCEEDED", "the second")
        assert (await get(executions, created.id, ann)).attempt == 2
        async with asyncio.timeout(3):
            await (await provider.received(0)).left.wait()


async def test_what_a_lost_attempt_still_says_keeps_nobody_waiting() -> None:
    execution: Any = SimpleNamespace(id=uuid4(), attempt=1)
    journal = Journal(execution, utc_now, lambda _: None)
    journal.write_text("in time")
    journal.lose()
    journal.write_text("too late")
    async with asyncio.timeout(1):
        with pytest.raises(LeaseLost):
            await journal.settle()


async def test_events_that_are_found_stored_a_second_time_count_once() -> None:
    execution: Any = SimpleNamespace(id=uuid4(), attempt=1)
    journal = Journal(execution, utc_now, lambda _: None)
    journal.write_text("once")
    batch = journal.take()
    journal.stored(batch)
    journal.stored(batch)
    assert journal.appended == 1


async def test_an_outage_when_an_execution_begins_does_not_fail_it(
    executions: ExecutionServiceStub, create: Create, as_user: Any, database_url: str
) -> None:
    ann = as_user("ann")
    agent = await create(ann)

    async with (
        await psycopg.AsyncConnection.connect(libpq_url(database_url)) as locking,
        await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as admin,
    ):
        await locking.execute("LOCK TABLE agent.revisions")
        request = pb2.CreateExecutionRequest(agent_id=agent.id, input="still there")
        created = (await executions.CreateExecution(request, metadata=ann)).execution

        async def cut_off() -> bool:
            cut = await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%agent.revisions%'"
            )
            return bool(await cut.fetchall())

        await eventually(cut_off)
        await locking.rollback()
    told = await watch(executions, created.id, ann)
    assert (told.states, told.text) == (["QUEUED", "RUNNING", "SUCCEEDED"], "still there")
