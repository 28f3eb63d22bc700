"""Who runs when there are fewer places than executions."""

import asyncio
from typing import Any

import psycopg
from grpc import StatusCode

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.kit.database import libpq_url
from tests.agent.conftest import draft
from tests.agent.runs import get, watch
from tests.support import Metadata, raises_status

WORDS = "a few words to say " * 3


async def create(channel: Any, metadata: Metadata, count: int, text: str = WORDS, **fields: Any) -> list[str]:
    agents, executions = AgentServiceStub(channel), ExecutionServiceStub(channel)
    agent_id = (await agents.CreateAgent(draft(), metadata=metadata)).agent.id
    request = pb2.CreateExecutionRequest(agent_id=agent_id, input=text, **fields)
    return [(await executions.CreateExecution(request, metadata=metadata)).execution.id for _ in range(count)]


async def test_no_more_of_one_user_run_than_may_however_many_processes_there_are(
    serve: Any, settings: Any, as_user: Any, database_url: str
) -> None:
    ann = as_user("ann")
    own = settings(AgentSettings, agent_port=0, agent_max_running_per_user=3)
    channels = [await serve(open_agent, own) for _ in range(3)]
    ids = await create(channels[0], ann, 12)
    most = 0
    watching = asyncio.gather(*(watch(ExecutionServiceStub(channels[1]), id_, ann) for id_ in ids))
    async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as connection:
        while not watching.done():
            rows = await connection.execute("SELECT count(*) FROM agent.executions WHERE state = 'RUNNING'")
            found = await rows.fetchone()
            assert found is not None
            most = max(most, found[0])
            await asyncio.sleep(0.02)
    assert most == 3
    assert all(told.text == WORDS for told in await watching)


async def test_a_user_with_many_executions_does_not_keep_another_waiting(
    serve: Any, settings: Any, as_user: Any
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    channel = await serve(open_agent, settings(AgentSettings, agent_port=0, agent_max_running=2))
    executions = ExecutionServiceStub(channel)
    many = await create(channel, ann, 20)
    (one,) = await create(channel, bob, 1)
    async with asyncio.timeout(20):
        await watch(executions, one, bob)
    states = [(await get(executions, id_, ann)).state for id_ in many]
    assert states.count(pb2.EXECUTION_STATE_QUEUED) > 10, "bob did not wait for all of ann's"


async def test_a_user_can_have_so_many_open_and_no_more(serve: Any, settings: Any, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    channel = await serve(open_agent, settings(AgentSettings, agent_port=0, agent_max_open_per_user=3))
    executions = ExecutionServiceStub(channel)
    long = "words that take long " * 500
    ids = await create(channel, ann, 3, long)
    with raises_status(StatusCode.RESOURCE_EXHAUSTED, "EXECUTION_LIMIT_REACHED"):
        await create(channel, ann, 1, long)
    await create(channel, bob, 1)
    await executions.CancelExecution(pb2.CancelExecutionRequest(id=ids[0]), metadata=ann)
    await watch(executions, ids[0], ann)
    await create(channel, ann, 1, long)


async def test_what_waits_is_cancelled_at_once(serve: Any, settings: Any, as_user: Any) -> None:
    ann = as_user("ann")
    channel = await serve(open_agent, settings(AgentSettings, agent_port=0, agent_max_running=1))
    executions = ExecutionServiceStub(channel)
    _, waits = await create(channel, ann, 2, "words that take long " * 500)
    cancelled = await executions.CancelExecution(pb2.CancelExecutionRequest(id=waits), metadata=ann)
    assert cancelled.execution.state == pb2.EXECUTION_STATE_CANCELLED
    assert (await watch(executions, waits, ann)).states == ["QUEUED", "CANCELLED"]
