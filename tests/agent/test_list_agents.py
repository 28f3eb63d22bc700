"""ListAgents: newest first, in pages that neither repeat nor lose an agent."""

import base64
from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from tests.support import raises_status

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def list_agents(agents: AgentServiceStub, as_user: Any) -> Any:
    async def list_agents(name: str = "ann", **fields: Any) -> pb2.ListAgentsResponse:
        return await agents.ListAgents(pb2.ListAgentsRequest(**fields), metadata=as_user(name))

    return list_agents


async def names_of_five(create: Any, as_user: Any) -> list[str]:
    return [(await create(as_user("ann"), name=f"agent {n}")).name for n in range(5)][::-1]


def names(page: pb2.ListAgentsResponse) -> list[str]:
    return [agent.name for agent in page.agents]


async def test_a_user_without_agents_gets_an_empty_page(list_agents: Any) -> None:
    page = await list_agents()
    assert (list(page.agents), page.next_page_token, page.total_size) == ([], "", 0)


async def test_agents_come_newest_first(create: Any, list_agents: Any, as_user: Any) -> None:
    newest_first = await names_of_five(create, as_user)
    page = await list_agents()
    assert names(page) == newest_first
    assert (page.next_page_token, page.total_size) == ("", 5)


async def test_a_listed_agent_is_whole(create: Any, list_agents: Any, as_user: Any) -> None:
    agent = await create(as_user("ann"), description="Notes.", config={"a": 1})
    assert list((await list_agents()).agents) == [agent]


async def test_pages_follow_each_other_and_each_tells_the_total(create: Any, list_agents: Any, as_user: Any) -> None:
    newest_first = await names_of_five(create, as_user)
    seen, token = [], ""
    for expected in (2, 2, 1):
        page = await list_agents(page_size=2, page_token=token)
        assert (len(page.agents), page.total_size) == (expected, 5)
        seen += names(page)
        token = page.next_page_token
    assert (seen, token) == (newest_first, "")


async def test_the_last_page_has_no_token_when_it_is_full(create: Any, list_agents: Any, as_user: Any) -> None:
    await names_of_five(create, as_user)
    assert (await list_agents(page_size=5)).next_page_token == ""


async def test_what_is_created_between_two_pages_moves_nothing(create: Any, list_agents: Any, as_user: Any) -> None:
    newest_first = await names_of_five(create, as_user)
    first = await list_agents(page_size=2)
    await create(as_user("ann"), name="in between")
    second = await list_agents(page_size=10, page_token=first.next_page_token)
    assert names(first) + names(second) == newest_first
    assert second.total_size == 6


async def test_a_page_goes_on_after_an_agent_that_was_deleted_since(
    agents: AgentServiceStub, create: Any, list_agents: Any, as_user: Any
) -> None:
    newest_first = await names_of_five(create, as_user)
    first = await list_agents(page_size=2)
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=first.agents[-1].id), metadata=as_user("ann"))
    second = await list_agents(page_token=first.next_page_token)
    assert (names(second), second.total_size) == (newest_first[2:], 4)


async def test_skip_passes_over_agents_from_where_the_page_starts(create: Any, list_agents: Any, as_user: Any) -> None:
    newest_first = await names_of_five(create, as_user)
    first = await list_agents(skip=1, page_size=1)
    assert names(first) == newest_first[1:2]
    second = await list_agents(page_token=first.next_page_token, skip=1)
    assert names(second) == newest_first[3:]


async def test_skipping_all_gives_an_empty_page_and_still_the_total(
    create: Any, list_agents: Any, as_user: Any
) -> None:
    await names_of_five(create, as_user)
    page = await list_agents(skip=5)
    assert (list(page.agents), page.next_page_token, page.total_size) == ([], "", 5)


async def test_a_page_holds_a_hundred_unless_fewer_are_asked_for(create: Any, list_agents: Any, as_user: Any) -> None:
    for _ in range(101):
        await create(as_user("ann"))
    page = await list_agents()
    assert (len(page.agents), page.total_size) == (100, 101)
    assert page.next_page_token


async def test_only_ones_own_agents_are_listed_and_counted(create: Any, list_agents: Any, as_user: Any) -> None:
    await names_of_five(create, as_user)
    await create(as_user("bob"), name="of bob")
    page = await list_agents("bob")
    assert (names(page), page.total_size) == (["of bob"], 1)


async def test_arguments_outside_their_limits_are_named(list_agents: Any, subtests: pytest.Subtests) -> None:
    for field, value in [("page_size", -1), ("page_size", 101), ("skip", -1), ("page_token", "x" * 513)]:
        with subtests.test(field), raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
            await list_agents(**{field: value})


async def test_a_page_token_that_no_list_made_is_refused(list_agents: Any, subtests: pytest.Subtests) -> None:
    for token in ["garbage", "ü", "====", "AAAA", base64.urlsafe_b64encode(uuid4().bytes + bytes(8)).decode()]:
        with subtests.test(token), raises_status(INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
            await list_agents(page_token=token)


async def test_a_page_token_of_another_user_is_refused(create: Any, list_agents: Any, as_user: Any) -> None:
    await names_of_five(create, as_user)
    token = (await list_agents("ann", page_size=1)).next_page_token
    with raises_status(INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await list_agents("bob", page_token=token)


async def test_large_agents_come_on_smaller_pages_and_none_is_left_out(
    agents: AgentServiceStub, create: Any, as_user: Any
) -> None:
    ann, large = as_user("ann"), "\U0001f600" * 32_768
    created = [(await create(ann, system_prompt=large)).id for _ in range(34)]
    listed: list[str] = []
    token, pages = "", 0
    while token or not pages:
        page = await agents.ListAgents(pb2.ListAgentsRequest(page_token=token), metadata=ann)
        listed += [agent.id for agent in page.agents]
        assert page.total_size == 34
        token, pages = page.next_page_token, pages + 1
    assert listed == created[::-1]
    assert pages == 2
