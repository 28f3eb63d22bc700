"""An agent is there for its owner, until it is deleted, and for nobody else."""

from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from tests.support import raises_status

NOT_FOUND = grpc.StatusCode.NOT_FOUND


def calls_about(agent_id: str) -> dict[str, Message]:
    return {
        "GetAgent": pb2.GetAgentRequest(id=agent_id),
        "UpdateAgent": pb2.UpdateAgentRequest(
            id=agent_id, agent=pb2.AgentPatch(name="Taken over"), update_mask=FieldMask(paths=["name"])
        ),
        "DeleteAgent": pb2.DeleteAgentRequest(id=agent_id),
        "ListAgentRevisions": pb2.ListAgentRevisionsRequest(id=agent_id),
        "RollbackAgent": pb2.RollbackAgentRequest(id=agent_id, revision=1),
    }


METHODS = sorted(calls_about(""))


async def test_an_agent_of_somebody_else_is_not_found_and_stays_as_it_is(
    agents: AgentServiceStub, create: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    for method in METHODS:
        with subtests.test(method):
            agent = await create(as_user("ann"))
            with raises_status(NOT_FOUND, "AGENT_NOT_FOUND"):
                await getattr(agents, method)(calls_about(agent.id)[method], metadata=as_user("bob"))
            assert (await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=as_user("ann"))).agent == agent


async def test_an_id_that_was_never_given_is_not_found(
    agents: AgentServiceStub, as_user: Any, subtests: pytest.Subtests
) -> None:
    for method in METHODS:
        with subtests.test(method), raises_status(NOT_FOUND, "AGENT_NOT_FOUND"):
            await getattr(agents, method)(calls_about(str(uuid4()))[method], metadata=as_user("ann"))


async def test_an_id_that_is_no_uuid_is_refused(
    agents: AgentServiceStub, as_user: Any, subtests: pytest.Subtests
) -> None:
    for agent_id in ["", "7", "018f0000-0000-7000-8000-00000000000g", "{}", "x" * 10_000]:
        for method in METHODS:
            refused = raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["id"])
            with subtests.test(method, agent_id=agent_id[:40]), refused:
                await getattr(agents, method)(calls_about(agent_id)[method], metadata=as_user("ann"))


async def test_a_deleted_agent_is_not_found(
    agents: AgentServiceStub, create: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    for method in METHODS:
        with subtests.test(method):
            agent = await create(as_user("ann"))
            await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id), metadata=as_user("ann"))
            with raises_status(NOT_FOUND, "AGENT_NOT_FOUND"):
                await getattr(agents, method)(calls_about(agent.id)[method], metadata=as_user("ann"))


async def test_a_deleted_agent_is_neither_listed_nor_counted(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    kept, deleted = await create(as_user("ann")), await create(as_user("ann"))
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=deleted.id), metadata=as_user("ann"))
    page = await agents.ListAgents(pb2.ListAgentsRequest(), metadata=as_user("ann"))
    assert (list(page.agents), page.total_size) == ([kept], 1)


async def test_deleting_takes_the_etag_of_now_and_refuses_a_stale_one(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann)
    update = calls_about(agent.id)["UpdateAgent"]
    assert isinstance(update, pb2.UpdateAgentRequest)
    changed = (await agents.UpdateAgent(update, metadata=ann)).agent
    with raises_status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id, etag=agent.etag), metadata=ann)
    assert (await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=ann)).agent == changed
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id, etag=changed.etag), metadata=ann)


async def test_nobody_gets_anywhere_without_a_token(agents: AgentServiceStub, subtests: pytest.Subtests) -> None:
    for method in ["CreateAgent", "ListAgents", *METHODS]:
        with subtests.test(method):
            requests = {
                "CreateAgent": pb2.CreateAgentRequest(),
                "ListAgents": pb2.ListAgentsRequest(),
                **calls_about(str(uuid4())),
            }
            with raises_status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"):
                await getattr(agents, method)(requests[method])
