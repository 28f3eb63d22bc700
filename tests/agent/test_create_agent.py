"""CreateAgent: what it gives, what it refuses, and that a retry has no second effect."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.rpc.error_details_pb2 import QuotaFailure

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from tests.support import detail, raises_status, status_of

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


async def total(agents: AgentServiceStub, metadata: Any) -> int:
    return (await agents.ListAgents(pb2.ListAgentsRequest(), metadata=metadata)).total_size


async def test_a_new_agent_has_what_was_asked_for_and_what_the_server_adds(create: Any, as_user: Any) -> None:
    ann = as_user("ann")
    agent = await create(ann, description="Notes.", config={"temperature": 0.5, "stop": ["\n"]}, is_active=False)
    assert (agent.name, agent.description, agent.model_name) == ("Scribe", "Notes.", "echo-1")
    assert agent.system_prompt == "You write down what is said."
    assert dict(agent.config)["temperature"] == 0.5
    assert list(agent.config["stop"]) == ["\n"]
    assert not agent.is_active
    assert UUID(agent.id).version == 7
    assert agent.user_id == str(as_user.id("ann"))
    assert agent.revision == 1
    assert agent.etag
    assert agent.create_time == agent.update_time
    assert abs(agent.create_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_an_agent_is_active_unless_it_is_said_not_to_be(create: Any, as_user: Any) -> None:
    assert (await create(as_user("ann"))).is_active


async def test_what_create_answers_is_what_get_answers(agents: AgentServiceStub, create: Any, as_user: Any) -> None:
    agent = await create(as_user("ann"), config={"a": [1, None, True, {"b": "ü"}], "n": 0.1}, description="…")
    got = await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=as_user("ann"))
    assert got.agent == agent


async def test_a_field_outside_its_limits_is_named_and_nothing_is_created(
    agents: AgentServiceStub, create: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    for field, value in [
        ("name", ""),
        ("name", "ab"),
        ("name", "   "),
        ("name", "n" * 65),
        ("name", "a\0bc"),
        ("description", "d" * 2001),
        ("model_name", ""),
        ("model_name", "m" * 101),
        ("system_prompt", ""),
        ("system_prompt", "too short"),
        ("system_prompt", "s" * 32_769),
        ("request_id", "not a uuid"),
    ]:
        with subtests.test(f"{field} of {len(value)} characters"):
            with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
                await create(as_user("ann"), **{field: value})
            assert await total(agents, as_user("ann")) == 0


async def test_fields_at_their_limits_are_taken(create: Any, as_user: Any) -> None:
    fields = {"name": "ü" * 64, "description": "d" * 2000, "model_name": "m" * 100, "system_prompt": "s" * 32_768}
    agent = await create(as_user("ann"), **fields)
    assert {field: getattr(agent, field) for field in fields} == fields
    await create(as_user("ann"), name="abc", model_name="m", system_prompt="0123456789")


async def test_every_bad_field_is_named_at_once(create: Any, as_user: Any) -> None:
    with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["name", "model_name", "system_prompt"]):
        await create(as_user("ann"), name="", model_name="", system_prompt="")


async def test_a_retry_with_the_same_request_id_answers_the_first_agent(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    request_id = str(uuid4())
    first = await create(as_user("ann"), request_id=request_id, config={"a": 1, "b": 2})
    again = await create(as_user("ann"), request_id=request_id, config={"b": 2, "a": 1}, is_active=True)
    assert again == first
    assert await total(agents, as_user("ann")) == 1


async def test_the_same_request_id_with_another_payload_is_refused(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    request_id = str(uuid4())
    await create(as_user("ann"), request_id=request_id, config={"on": True})
    for other in ({"name": "Other"}, {"config": {"on": 1}}, {"is_active": False}):
        with raises_status(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
            await create(as_user("ann"), **{"request_id": request_id, "config": {"on": True}, **other})
    assert await total(agents, as_user("ann")) == 1


async def test_two_users_may_use_the_same_request_id(create: Any, as_user: Any) -> None:
    request_id = str(uuid4())
    first = await create(as_user("ann"), request_id=request_id)
    second = await create(as_user("bob"), request_id=request_id)
    assert first.id != second.id


async def test_a_retry_after_the_agent_was_deleted_does_not_create_it_again(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    request_id = str(uuid4())
    agent = await create(as_user("ann"), request_id=request_id)
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id), metadata=as_user("ann"))
    with raises_status(grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"):
        await create(as_user("ann"), request_id=request_id)
    assert await total(agents, as_user("ann")) == 0


async def test_the_same_request_sent_many_times_at_once_creates_one_agent(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann, request_id = as_user("ann"), str(uuid4())
    answers = await asyncio.gather(*(create(ann, request_id=request_id) for _ in range(20)))
    assert len({agent.id for agent in answers}) == 1
    assert await total(agents, ann) == 1


async def test_of_two_payloads_under_one_request_id_at_once_one_wins(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann, request_id = as_user("ann"), str(uuid4())
    names = ["Left", "Right"] * 6
    answers = await asyncio.gather(
        *(create(ann, request_id=request_id, name=name) for name in names), return_exceptions=True
    )
    made = {answer.id for answer in answers if isinstance(answer, pb2.Agent)}
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(made) == 1
    assert len(refused) == 6
    assert {error.code() for error in refused} == {grpc.StatusCode.ALREADY_EXISTS}
    assert await total(agents, ann) == 1


async def test_the_limit_of_agents_holds_exactly_when_many_are_created_at_once(
    serve: Any, settings: Any, as_user: Any
) -> None:
    agents = AgentServiceStub(await serve(open_agent, settings(AgentSettings, agent_port=0, agent_max_per_user=5)))
    ann = as_user("ann")
    request = pb2.CreateAgentRequest(name="One of many", model_name="echo-1", system_prompt="You are one of many.")
    answers = await asyncio.gather(
        *(agents.CreateAgent(request, metadata=ann) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(answer, pb2.CreateAgentResponse) for answer in answers) == 5
    with raises_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "AGENT_LIMIT_REACHED"):
        await agents.CreateAgent(request, metadata=ann)
    refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    quota = detail(status_of(refusals[0]), QuotaFailure)
    assert quota is not None
    assert [(v.subject, v.description) for v in quota.violations] == [(f"user:{as_user.id('ann')}", "5 agents")]

    # Another user has a limit of their own, and a deleted agent makes room.
    await agents.CreateAgent(request, metadata=as_user("bob"))
    newest = (await agents.ListAgents(pb2.ListAgentsRequest(page_size=1), metadata=ann)).agents[0]
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=newest.id), metadata=ann)
    await agents.CreateAgent(request, metadata=ann)


async def test_a_retry_is_answered_when_the_limit_is_reached(serve: Any, settings: Any, as_user: Any) -> None:
    agents = AgentServiceStub(await serve(open_agent, settings(AgentSettings, agent_port=0, agent_max_per_user=1)))
    request = pb2.CreateAgentRequest(
        name="The only one", model_name="echo-1", system_prompt="You are alone.", request_id=str(uuid4())
    )
    first = await agents.CreateAgent(request, metadata=as_user("ann"))
    assert await agents.CreateAgent(request, metadata=as_user("ann")) == first
