"""The second chapter: agents."""

import uuid

from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from parley.agent.v1 import agent_service_pb2 as pb2
from services.cli.demo.steps import Steps, expect, refused
from services.cli.demo.suite import Person, Suite, call

COUNT = 5
PAGE_SIZE = 2


async def manage(suite: Suite, steps: Steps, ann: Person, bob: Person) -> None:
    """Agents are created, listed by page, changed by mask and deleted; only their owner sees them."""
    created: list[pb2.Agent] = []

    async with steps.step(f"Ann creates {COUNT} agents; a repeat with the same request_id creates none"):
        for number in range(COUNT):
            request = pb2.CreateAgentRequest(
                name=f"Helper {number + 1}",
                description="Made by the demo",
                model_name="echo-1",
                system_prompt="You are of help wherever you can be.",
                request_id=str(uuid.uuid4()),
            )
            request.config.update({"temperature": 0.5, "tools": ["search"]})
            agent = (await call(suite.agent.CreateAgent, request, ann)).agent
            repeat = (await call(suite.agent.CreateAgent, request, ann)).agent
            expect(repeat.id, agent.id, "the agent of the repeat")
            created.append(agent)

    async with steps.step("She lists them by page, newest first"):
        newest_first = [agent.id for agent in reversed(created)]
        expect(await _listed(suite, ann), newest_first, "the list")

    async with steps.step("She changes one field by mask; the others stay, and a stale etag is refused"):
        before = created[0]
        change = pb2.UpdateAgentRequest(
            id=before.id,
            agent=pb2.AgentPatch(name="not in the mask", description="Changed by the demo"),
            update_mask=FieldMask(paths=["description"]),
            etag=before.etag,
        )
        after = (await call(suite.agent.UpdateAgent, change, ann)).agent
        found = (after.name, after.description, after.revision, after.config)
        expect(found, (before.name, "Changed by the demo", before.revision + 1, before.config), "the changed agent")
        with refused(StatusCode.ABORTED, "ETAG_MISMATCH", "a change with a stale etag"):
            change.agent.description = "Changed again"
            await call(suite.agent.UpdateAgent, change, ann)
        expect((await call(suite.agent.GetAgent, pb2.GetAgentRequest(id=before.id), ann)).agent, after, "what is kept")

    async with steps.step("Bob does not see Ann's agents"):
        with refused(StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", "Bob's look at Ann's agent"):
            await call(suite.agent.GetAgent, pb2.GetAgentRequest(id=created[0].id), bob)
        expect((await call(suite.agent.ListAgents, pb2.ListAgentsRequest(), bob)).total_size, 0, "Bob's agents")

    async with steps.step("She deletes them; they are gone"):
        for agent in created:
            await call(suite.agent.DeleteAgent, pb2.DeleteAgentRequest(id=agent.id), ann)
        with refused(StatusCode.NOT_FOUND, "AGENT_NOT_FOUND", "a deleted agent"):
            await call(suite.agent.GetAgent, pb2.GetAgentRequest(id=created[0].id), ann)
        expect(await _listed(suite, ann), [], "the list")


async def _listed(suite: Suite, person: Person) -> list[str]:
    """The ids of all agents, read page by page."""
    ids: list[str] = []
    request = pb2.ListAgentsRequest(page_size=PAGE_SIZE)
    while True:
        page = await call(suite.agent.ListAgents, request, person)
        expect(len(page.agents) <= PAGE_SIZE, True, "that a page is no longer than asked for")
        ids += [agent.id for agent in page.agents]
        if not page.next_page_token:
            expect(page.total_size, len(ids), "total_size")
            return ids
        request.page_token = page.next_page_token
