"""A deletion can be taken back until the agent is gone for good."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import text

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.kit.database import Database
from tests.agent.conftest import draft
from tests.support import raises_status

NOT_FOUND = grpc.StatusCode.NOT_FOUND


async def delete(agents: AgentServiceStub, agent: pb2.Agent, metadata: Any) -> pb2.Agent:
    return (await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id), metadata=metadata)).agent


async def undelete(agents: AgentServiceStub, agent: pb2.Agent, metadata: Any) -> pb2.Agent:
    return (await agents.UndeleteAgent(pb2.UndeleteAgentRequest(id=agent.id), metadata=metadata)).agent


async def test_a_deleted_agent_tells_when_it_is_gone_for_good(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    agent = await create(as_user("ann"))
    deleted = await delete(agents, agent, as_user("ann"))
    assert deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime() == timedelta(days=30)
    for field in ("delete_time", "purge_time"):
        assert not agent.HasField(field)
        deleted.ClearField(field)
    assert deleted == agent


async def test_an_undeleted_agent_is_as_it_was_with_its_revisions(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann, config={"a": 1})
    patch, mask = pb2.AgentPatch(name="Clerk"), FieldMask(paths=["name"])
    agent = (
        await agents.UpdateAgent(pb2.UpdateAgentRequest(id=agent.id, agent=patch, update_mask=mask), metadata=ann)
    ).agent
    await delete(agents, agent, ann)
    assert await undelete(agents, agent, ann) == agent
    assert (await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=ann)).agent == agent
    assert list((await agents.ListAgents(pb2.ListAgentsRequest(), metadata=ann)).agents) == [agent]
    revisions = await agents.ListAgentRevisions(pb2.ListAgentRevisionsRequest(id=agent.id), metadata=ann)
    assert revisions.total_size == 2


async def test_an_agent_that_is_not_deleted_cannot_be_undeleted(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann)
    for _ in range(2):
        with raises_status(grpc.StatusCode.FAILED_PRECONDITION, "AGENT_NOT_DELETED"):
            await undelete(agents, agent, ann)
        await delete(agents, agent, ann)
        await undelete(agents, agent, ann)


async def test_a_deleted_agent_of_somebody_else_is_not_found_and_stays_deleted(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    agent = await create(as_user("ann"))
    await delete(agents, agent, as_user("ann"))
    with raises_status(NOT_FOUND, "AGENT_NOT_FOUND"):
        await undelete(agents, agent, as_user("bob"))
    with raises_status(NOT_FOUND, "AGENT_NOT_FOUND"):
        await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=as_user("ann"))


async def test_an_undeleted_agent_counts_against_the_limit_again(
    serve: Callable[..., Any], settings: Any, as_user: Any
) -> None:
    agents = AgentServiceStub(await serve(open_agent, settings(AgentSettings, agent_port=0, agent_max_per_user=2)))
    ann = as_user("ann")
    made = [(await agents.CreateAgent(draft(), metadata=ann)).agent for _ in range(2)]
    await delete(agents, made[0], ann)
    third = (await agents.CreateAgent(draft(), metadata=ann)).agent
    with raises_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "AGENT_LIMIT_REACHED"):
        await undelete(agents, made[0], ann)
    await delete(agents, third, ann)
    # One place, and two deletions to take back, each again and again, beside what is created.
    answers = await asyncio.gather(
        *(undelete(agents, agent, ann) for agent in (made[0], third) for _ in range(4)),
        *(agents.CreateAgent(draft(), metadata=ann) for _ in range(4)),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert (await agents.ListAgents(pb2.ListAgentsRequest(), metadata=ann)).total_size == 2


async def test_a_retried_creation_answers_the_agent_again_once_it_is_undeleted(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann, request_id = as_user("ann"), str(uuid4())
    agent = await create(ann, request_id=request_id)
    await delete(agents, agent, ann)
    with raises_status(NOT_FOUND, "AGENT_NOT_FOUND"):
        await create(ann, request_id=request_id)
    await undelete(agents, agent, ann)
    assert await create(ann, request_id=request_id) == agent


async def test_an_agent_whose_time_is_over_is_gone_even_before_the_worker_has_come(
    agents: AgentServiceStub, create: Any, as_user: Any, database: Database
) -> None:
    ann = as_user("ann")
    agent = await create(ann)
    await delete(agents, agent, ann)
    async with database.read() as tx:
        await tx.execute(text("UPDATE agent.agents SET purge_time = now()"))
    assert (await agents.ListAgents(pb2.ListAgentsRequest(show_deleted=True), metadata=ann)).total_size == 0
    with raises_status(NOT_FOUND, "AGENT_NOT_FOUND"):
        await undelete(agents, agent, ann)


@pytest.mark.parametrize("agent_id", ["", "7", "x" * 10_000])
async def test_an_id_that_is_no_uuid_is_refused(agents: AgentServiceStub, as_user: Any, agent_id: str) -> None:
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["id"]):
        await undelete(agents, pb2.Agent(id=agent_id), as_user("ann"))
