"""What an agent was is kept with every change, and can be had again."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from tests.support import raises_status

NOT_FOUND, ABORTED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED
DECIDED = ("name", "description", "model_name", "system_prompt", "config", "is_active")


class Mine:
    """The agents of ann."""

    def __init__(self, agents: AgentServiceStub, metadata: Any) -> None:
        self._agents = agents
        self._metadata = metadata

    async def get(self, agent: pb2.Agent) -> pb2.Agent:
        return (await self._agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=self._metadata)).agent

    async def update(self, agent: pb2.Agent, **fields: Any) -> pb2.Agent:
        mask = FieldMask(paths=list(fields))
        request = pb2.UpdateAgentRequest(id=agent.id, agent=pb2.AgentPatch(**fields), update_mask=mask)
        return (await self._agents.UpdateAgent(request, metadata=self._metadata)).agent

    async def roll_back(self, agent: pb2.Agent, revision: int, etag: str = "") -> pb2.Agent:
        request = pb2.RollbackAgentRequest(id=agent.id, revision=revision, etag=etag)
        return (await self._agents.RollbackAgent(request, metadata=self._metadata)).agent

    async def revisions(self, agent: pb2.Agent, **fields: Any) -> pb2.ListAgentRevisionsResponse:
        request = pb2.ListAgentRevisionsRequest(id=agent.id, **fields)
        return await self._agents.ListAgentRevisions(request, metadata=self._metadata)


@pytest.fixture
def mine(agents: AgentServiceStub, as_user: Any) -> Mine:
    return Mine(agents, as_user("ann"))


@pytest.fixture
async def agent(create: Any, as_user: Any) -> pb2.Agent:
    return await create(as_user("ann"), description="Notes.", config={"a": 1, "on": True})  # type: ignore[no-any-return]  # create is a fixture


def content(of: pb2.Agent | pb2.AgentRevision) -> pb2.AgentPatch:
    return pb2.AgentPatch(**{field: getattr(of, field) for field in DECIDED})


def numbers(page: pb2.ListAgentRevisionsResponse) -> list[int]:
    return [revision.revision for revision in page.revisions]


def is_kept_as(revision: pb2.AgentRevision, agent: pb2.Agent) -> bool:
    return (
        revision.revision == agent.revision
        and revision.create_time == agent.update_time
        and content(revision) == content(agent)
    )


async def change_all(mine: Mine, agent: pb2.Agent) -> pb2.Agent:
    return await mine.update(
        agent,
        name="Clerk",
        description="Files.",
        model_name="echo-2",
        system_prompt="You put things in order.",
        config={"b": [2]},
        is_active=False,
    )


async def test_what_an_agent_was_is_kept_whole_with_every_change(mine: Mine, agent: pb2.Agent) -> None:
    changed = await change_all(mine, agent)
    again = await mine.update(changed, config={})
    page = await mine.revisions(agent)
    assert (numbers(page), page.next_page_token, page.total_size) == ([3, 2, 1], "", 3)
    for revision, was in zip(page.revisions, (again, changed, agent), strict=True):
        assert is_kept_as(revision, was)


async def test_an_update_that_changes_nothing_adds_no_revision(mine: Mine, agent: pb2.Agent) -> None:
    await mine.update(agent, name=agent.name)
    assert numbers(await mine.revisions(agent)) == [1]


async def test_revisions_come_in_pages_that_tell_the_total(mine: Mine, agent: pb2.Agent) -> None:
    for n in range(11):
        await mine.update(agent, name=f"agent {n}")
    seen, token = [], ""
    for expected in (5, 5, 2):
        page = await mine.revisions(agent, page_size=5, page_token=token)
        assert (len(page.revisions), page.total_size) == (expected, 12)
        seen += numbers(page)
        token = page.next_page_token
    assert (seen, token) == (list(range(12, 0, -1)), "")
    assert numbers(await mine.revisions(agent, skip=10)) == [2, 1]
    beyond = await mine.revisions(agent, skip=12)
    assert (numbers(beyond), beyond.total_size) == ([], 12)


async def test_a_change_between_two_pages_moves_nothing(mine: Mine, agent: pb2.Agent) -> None:
    for n in range(3):
        await mine.update(agent, name=f"agent {n}")
    first = await mine.revisions(agent, page_size=2)
    await mine.update(agent, name="in between")
    second = await mine.revisions(agent, page_token=first.next_page_token)
    assert (numbers(first), numbers(second), second.total_size) == ([4, 3], [2, 1], 5)


async def test_large_revisions_come_on_smaller_pages_and_none_is_left_out(mine: Mine, agent: pb2.Agent) -> None:
    for n in range(26):
        await mine.update(agent, system_prompt=chr(0x1F600 + n) * 32_768)
    first = await mine.revisions(agent)
    second = await mine.revisions(agent, page_token=first.next_page_token)
    assert numbers(first) + numbers(second) == list(range(27, 0, -1))
    assert second.next_page_token == ""


async def test_a_page_token_of_another_list_is_refused(
    agents: AgentServiceStub, mine: Mine, create: Any, agent: pb2.Agent, as_user: Any
) -> None:
    other = await create(as_user("ann"))
    for each in (agent, other):
        await mine.update(each, name="Clerk")
    list_token = (await agents.ListAgents(pb2.ListAgentsRequest(page_size=1), metadata=as_user("ann"))).next_page_token
    for token in ((await mine.revisions(other, page_size=1)).next_page_token, list_token, "garbage"):
        with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
            await mine.revisions(agent, page_token=token)


async def test_rolling_back_makes_a_new_revision_with_the_old_content(mine: Mine, agent: pb2.Agent) -> None:
    changed = await change_all(mine, agent)
    back = await mine.roll_back(agent, 1)
    assert content(back) == content(agent)
    assert (back.revision, back.create_time) == (3, agent.create_time)
    assert back.etag not in (agent.etag, changed.etag)
    assert back.update_time.ToNanoseconds() > changed.update_time.ToNanoseconds()
    assert await mine.get(agent) == back
    page = await mine.revisions(agent)
    assert numbers(page) == [3, 2, 1]
    assert is_kept_as(page.revisions[0], back)
    assert content(await mine.roll_back(agent, 2)) == content(changed)


async def test_rolling_back_to_what_the_agent_is_changes_nothing(mine: Mine, agent: pb2.Agent) -> None:
    changed = await mine.update(agent, name="Clerk")
    assert await mine.roll_back(agent, 2) == changed
    back = await mine.roll_back(agent, 1)
    assert await mine.roll_back(agent, 3) == back
    assert await mine.roll_back(agent, 1) == back, "a repeat after a lost reply has no second effect"
    assert (await mine.revisions(agent)).total_size == 3


async def test_a_revision_that_the_agent_does_not_have_is_not_found(mine: Mine, create: Any, as_user: Any) -> None:
    agent, other = await create(as_user("ann")), await create(as_user("ann"))
    await mine.update(other, name="Clerk")
    for revision in (2, 2**63 - 1):
        with raises_status(NOT_FOUND, "REVISION_NOT_FOUND"):
            await mine.roll_back(agent, revision)
    for revision in (0, -1):
        with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["revision"]):
            await mine.roll_back(agent, revision)
    assert await mine.get(agent) == agent


async def test_rolling_back_takes_the_etag_of_now_and_refuses_a_stale_one(mine: Mine, agent: pb2.Agent) -> None:
    changed = await mine.update(agent, name="Clerk")
    for revision in (1, 2):
        with raises_status(ABORTED, "ETAG_MISMATCH"):
            await mine.roll_back(agent, revision, etag=agent.etag)
    assert await mine.get(agent) == changed
    assert (await mine.roll_back(agent, 1, etag=changed.etag)).revision == 3


async def test_of_changes_at_once_every_one_is_kept(mine: Mine, agent: pb2.Agent) -> None:
    answers = await asyncio.gather(
        *(mine.update(agent, name=f"agent {n}") for n in range(6)), *(mine.roll_back(agent, 1) for _ in range(3))
    )
    made = {answer.revision: answer for answer in answers} | {1: agent}
    page = await mine.revisions(agent)
    assert sorted(made, reverse=True) == numbers(page)
    for revision in page.revisions:
        assert is_kept_as(revision, made[revision.revision])
