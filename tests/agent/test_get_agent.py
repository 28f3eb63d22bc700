"""GetAgent, many at the same moment: each gets their own agent, as if they had asked alone."""

import asyncio
from typing import Any

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub


async def test_of_many_who_read_at_once_everybody_gets_their_own_agents_only(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    users = ["ann", "bob", "cid"]
    made = {user: [await create(as_user(user), name=f"{user} {number}") for number in range(4)] for user in users}

    async def get(user: str, agent: pb2.Agent) -> pb2.Agent | grpc.StatusCode:
        try:
            return (await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=as_user(user))).agent
        except grpc.aio.AioRpcError as error:
            return error.code()

    asked = [(user, owner, agent) for user in users for owner in users for agent in made[owner]] * 2
    answers = await asyncio.gather(*(get(user, agent) for user, _, agent in asked))
    for (user, owner, agent), answer in zip(asked, answers, strict=True):
        assert answer == (agent if user == owner else grpc.StatusCode.NOT_FOUND)


async def test_who_gives_up_takes_nothing_from_the_others(agents: AgentServiceStub, create: Any, as_user: Any) -> None:
    agent = await create(as_user("ann"))
    request = pb2.GetAgentRequest(id=agent.id)
    calls = [agents.GetAgent(request, metadata=as_user("ann")) for _ in range(40)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    for call in calls[1::2]:
        assert (await call).agent == agent


async def test_an_agent_is_read_as_it_was_left_by_the_call_before(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann)
    request = pb2.GetAgentRequest(id=agent.id)

    async def keep_reading() -> None:
        while True:
            await agents.GetAgent(request, metadata=ann)

    others = [asyncio.create_task(keep_reading()) for _ in range(4)]
    try:
        for number in range(20):
            update = pb2.UpdateAgentRequest(
                id=agent.id, agent=pb2.AgentPatch(name=f"Name {number}"), update_mask=FieldMask(paths=["name"])
            )
            await agents.UpdateAgent(update, metadata=ann)
            assert (await agents.GetAgent(request, metadata=ann)).agent.name == f"Name {number}"
    finally:
        for other in others:
            other.cancel()
        await asyncio.wait(others)
