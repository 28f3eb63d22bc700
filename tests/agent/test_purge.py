"""Agents that are removed for good: those of a user who is, and deleted ones when their time is over."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1 import execution_service_pb2 as execution_pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.jobs import PURGE_DELETED_AGENTS, PURGE_USER
from services.agent.settings import AgentJobSettings
from services.agent.wiring import open_agent_jobs
from services.kit.database import Database
from services.kit.jobs import JobName
from tests.agent.conftest import Create
from tests.agent.runs import run, watch

RunJob = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few at a time that every job takes several transactions."""
    monkeypatch.setattr("services.agent.domain.purge.AGENTS_AT_A_TIME", 2)
    monkeypatch.setattr("services.agent.domain.purge.REVISIONS_AT_A_TIME", 3)
    monkeypatch.setattr("services.agent.domain.purge.EXECUTIONS_AT_A_TIME", 2)
    monkeypatch.setattr("services.agent.domain.purge.EVENTS_AT_A_TIME", 5)


@pytest.fixture
def run_job(settings: Callable[..., Any]) -> RunJob:
    """Does a job as the worker would, and as often: it must not matter."""

    async def run_job(name: JobName, **arguments: Any) -> None:
        async with open_agent_jobs(settings(AgentJobSettings)) as jobs:
            (job,) = (job for job in jobs if job.name == name)
            await asyncio.gather(*(job.run(**arguments) for _ in range(2)))
            await job.run(**arguments)

    return run_job


@pytest.fixture
def change(agents: AgentServiceStub) -> Any:
    """Gives an agent some revisions more."""

    async def change(agent: pb2.Agent, metadata: Any, times: int) -> pb2.Agent:
        for n in range(times):
            patch, mask = pb2.AgentPatch(name=f"agent {n}"), FieldMask(paths=["name"])
            request = pb2.UpdateAgentRequest(id=agent.id, agent=patch, update_mask=mask)
            agent = (await agents.UpdateAgent(request, metadata=metadata)).agent
        return agent

    return change


async def rows(database: Database, statement: str) -> list[str]:
    async with database.read() as tx:
        return [str(value) for value in (await tx.execute(text(statement))).scalars()]


async def test_all_agents_of_the_user_go_with_their_revisions_and_no_others(
    agents: AgentServiceStub, create: Create, change: Any, as_user: Any, database: Database, run_job: RunJob
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    theirs = [await create(ann) for _ in range(5)]
    await change(theirs[1], ann, 7)
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=theirs[0].id), metadata=ann)
    kept = await change(await create(bob), bob, 1)
    await run_job(PURGE_USER, user_id=str(as_user.id("ann")))
    assert await rows(database, "SELECT id FROM agent.agents") == [kept.id]
    assert await rows(database, "SELECT agent_id FROM agent.revisions") == [kept.id] * 2


async def test_agents_go_with_their_executions_whatever_these_are_doing(
    executions: ExecutionServiceStub, create: Create, as_user: Any, database: Database, run_job: RunJob
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    theirs = [await create(ann) for _ in range(3)]
    for agent in theirs:
        for said in ("a word", "many words that take their time to be said " * 100):
            request = execution_pb2.CreateExecutionRequest(agent_id=agent.id, input=said)
            await executions.CreateExecution(request, metadata=ann)
    kept, told = await run(executions, bob, agent_id=(await create(bob)).id, input="bob's own words")
    await run_job(PURGE_USER, user_id=str(as_user.id("ann")))
    assert await rows(database, "SELECT user_id FROM agent.agents") == [str(as_user.id("bob"))]
    assert await rows(database, "SELECT id FROM agent.executions") == [kept.id]
    assert await rows(database, "SELECT DISTINCT execution_id FROM agent.execution_events") == [kept.id]
    assert (await watch(executions, kept.id, bob)).events == told.events
    # What was running is noticed to be gone, and its place is free again.
    _, told = await run(executions, bob, agent_id=(await create(bob)).id, input="and more")
    assert told.text == "and more"


async def test_deleted_agents_go_when_their_time_is_over_and_no_others(
    agents: AgentServiceStub, create: Create, change: Any, as_user: Any, database: Database, run_job: RunJob
) -> None:
    ann = as_user("ann")
    due = [await create(ann) for _ in range(5)]
    await change(due[0], ann, 7)
    early, present = await create(ann), await change(await create(ann), ann, 1)
    for agent in (*due, early):
        await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id), metadata=ann)
    await run_job(PURGE_DELETED_AGENTS)
    assert len(await rows(database, "SELECT id FROM agent.agents")) == 7, "a deleted agent is given time"
    async with database.read() as tx:
        over = text("UPDATE agent.agents SET purge_time = now() WHERE id = ANY (CAST(:ids AS uuid[]))")
        await tx.execute(over, {"ids": [agent.id for agent in due]})
    await run_job(PURGE_DELETED_AGENTS)
    assert await rows(database, "SELECT id FROM agent.agents ORDER BY id") == [early.id, present.id]
    left = await rows(database, "SELECT agent_id FROM agent.revisions ORDER BY agent_id, revision")
    assert left == [early.id, present.id, present.id]


async def test_a_request_id_is_remembered_for_a_day_though_its_agent_is_gone(
    agents: AgentServiceStub, create: Create, as_user: Any, database: Database, run_job: RunJob
) -> None:
    ann = as_user("ann")
    agent = await create(ann, request_id=str(uuid4()))
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id), metadata=ann)
    async with database.read() as tx:
        await tx.execute(text("UPDATE agent.agents SET purge_time = now()"))
    await run_job(PURGE_DELETED_AGENTS)
    assert await rows(database, "SELECT id FROM agent.agents") == [agent.id]
    async with database.read() as tx:
        await tx.execute(text("UPDATE agent.agents SET create_time = create_time - interval '1 day'"))
    await run_job(PURGE_DELETED_AGENTS)
    assert await rows(database, "SELECT id FROM agent.agents") == []
