"""ListAgents with `order_by`, `filter` and `show_deleted`: the same agents page by page as at once."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from tests.support import raises_status

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NAMES = ["Zoe", "ann", "Ann", "ann", "émile", "Émile", "Ann", "zoe", "Ann", "10 %", "9_lives"]
LARGE = "\U0001f600" * 32_768


@pytest.fixture
def list_agents(agents: AgentServiceStub, as_user: Any) -> Any:
    async def list_agents(name: str = "ann", **fields: Any) -> pb2.ListAgentsResponse:
        return await agents.ListAgents(pb2.ListAgentsRequest(**fields), metadata=as_user(name))

    return list_agents


@pytest.fixture
def rename(agents: AgentServiceStub, as_user: Any) -> Any:
    async def rename(agent: pb2.Agent, name: str) -> pb2.Agent:
        patch, mask = pb2.AgentPatch(name=name), FieldMask(paths=["name"])
        request = pb2.UpdateAgentRequest(id=agent.id, agent=patch, update_mask=mask)
        return (await agents.UpdateAgent(request, metadata=as_user("ann"))).agent

    return rename


@pytest.fixture
def delete(agents: AgentServiceStub, as_user: Any) -> Any:
    async def delete(agent: pb2.Agent) -> pb2.Agent:
        return (await agents.DeleteAgent(pb2.DeleteAgentRequest(id=agent.id), metadata=as_user("ann"))).agent

    return delete


async def all_pages(list_agents: Any, **fields: Any) -> tuple[list[pb2.Agent], set[int], int]:
    """What all pages hold, the totals that they told, and how many pages there were."""
    listed: list[pb2.Agent] = []
    totals, pages, token = set(), 0, ""
    while token or not pages:
        page = await list_agents(page_token=token, **fields)
        listed += page.agents
        totals.add(page.total_size)
        token, pages = page.next_page_token, pages + 1
    return listed, totals, pages


def names(page: pb2.ListAgentsResponse) -> list[str]:
    return [agent.name for agent in page.agents]


def expected(agents: list[pb2.Agent], order_by: str) -> list[str]:
    """The ids in an order: newest first, and then sorted by one field after the other, the last one first."""
    ordered = sorted(agents, key=lambda agent: agent.id, reverse=True)
    for term in reversed(order_by.replace(" ", "").split(",")):
        field = term.removesuffix("desc")

        def value(agent: pb2.Agent, field: str = field) -> Any:
            found = getattr(agent, field)
            return found if field == "name" else found.ToNanoseconds()

        # A stable sort leaves equals as they were, in both directions.
        ordered.sort(key=value, reverse=term.endswith("desc"))
    return [agent.id for agent in ordered]


async def test_every_order_is_kept_over_pages_of_any_size(
    create: Any, rename: Any, list_agents: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    made = [await create(as_user("ann"), name=name) for name in NAMES]
    for index in (4, 1):
        made[index] = await rename(made[index], "Ann")
    for order_by in [
        "name",
        "name desc",
        "create_time",
        "create_time desc",
        "update_time",
        "update_time  desc",
        "name, update_time desc",
        " name desc,update_time ",
        "name desc, create_time, update_time",
    ]:
        for page_size in (1, 2, 5, 100):
            with subtests.test(order_by, page_size=page_size):
                listed, totals, _ = await all_pages(list_agents, order_by=order_by, page_size=page_size)
                assert [agent.id for agent in listed] == expected(made, order_by)
                assert totals == {len(NAMES)}


async def test_names_are_ordered_by_code_point(create: Any, list_agents: Any, as_user: Any) -> None:
    for name in NAMES:
        await create(as_user("ann"), name=name)
    assert names(await list_agents(order_by="name")) == sorted(NAMES)


async def test_equals_come_newest_first_whichever_way_they_are_ordered(
    create: Any, list_agents: Any, as_user: Any
) -> None:
    newest_first = [(await create(as_user("ann"), name="Twin")).id for _ in range(5)][::-1]
    for order_by in ("name", "name desc"):
        listed, _, _ = await all_pages(list_agents, order_by=order_by, page_size=2)
        assert [agent.id for agent in listed] == newest_first


async def test_the_last_agent_of_a_page_may_change_or_go_before_the_next_page(
    create: Any, rename: Any, delete: Any, list_agents: Any, as_user: Any
) -> None:
    for name in ("bbb", "aaa", "ddd", "ccc", "eee"):
        await create(as_user("ann"), name=name)
    first = await list_agents(order_by="name", page_size=2)
    assert names(first) == ["aaa", "bbb"]
    await rename(first.agents[-1], "zzz")
    second = await list_agents(order_by="name", page_size=1, page_token=first.next_page_token)
    assert names(second) == ["ccc"], "not from where the renamed one is now"
    await delete(second.agents[-1])
    third = await list_agents(order_by="name", page_token=second.next_page_token)
    assert (names(third), third.total_size) == (["ddd", "eee", "zzz"], 4)


async def test_skip_passes_over_agents_in_the_order_that_was_asked_for(
    create: Any, list_agents: Any, as_user: Any
) -> None:
    for name in ("bbb", "aaa", "ddd", "ccc", "eee"):
        await create(as_user("ann"), name=name)
    first = await list_agents(order_by="name desc", skip=1, page_size=1)
    assert names(first) == ["ddd"]
    second = await list_agents(order_by="name desc", skip=1, page_token=first.next_page_token)
    assert names(second) == ["bbb", "aaa"]
    beyond = await list_agents(order_by="name", skip=5)
    assert (names(beyond), beyond.next_page_token, beyond.total_size) == ([], "", 5)


async def test_a_name_of_the_greatest_length_fits_into_the_page_token(
    create: Any, list_agents: Any, as_user: Any
) -> None:
    for _ in range(3):
        await create(as_user("ann"), name="\U0001f600" * 64)
    listed, _, pages = await all_pages(list_agents, order_by="name, create_time, update_time desc", page_size=1)
    assert (len({agent.id for agent in listed}), pages) == (3, 3)


async def test_large_agents_come_on_smaller_pages_in_their_order(create: Any, list_agents: Any, as_user: Any) -> None:
    made = await asyncio.gather(
        *(create(as_user("ann"), name=f"agent {n % 3}", system_prompt=LARGE) for n in range(26))
    )
    listed, _, pages = await all_pages(list_agents, order_by="name")
    assert [agent.id for agent in listed] == expected(made, "name")
    assert pages == 2


async def test_an_order_that_the_list_does_not_know_is_refused(list_agents: Any, subtests: pytest.Subtests) -> None:
    for order_by in [
        "id",
        "name asc",
        "name DESC",
        "name descending",
        "-name",
        "name,",
        ",",
        "name name",
        "name; drop table agents",
        "name, name desc",
        "system_prompt",
        "x" * 201,
    ]:
        refused = raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["order_by"])
        with subtests.test(order_by[:40]), refused:
            await list_agents(order_by=order_by)


async def test_a_page_token_is_good_for_the_same_arguments_only(
    create: Any, list_agents: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    for name in ("aaa", "bbb", "ccc"):
        await create(as_user("ann"), name=name)
    arguments: list[dict[str, Any]] = [
        {},
        {"order_by": "name"},
        {"order_by": "name desc"},
        {"order_by": "name, create_time"},
        {"filter": "is_active = true"},
        {"filter": "is_active = true", "order_by": "name"},
        {"show_deleted": True},
    ]
    for made_with in arguments:
        token = (await list_agents(page_size=1, **made_with)).next_page_token
        for used_with in arguments:
            if used_with == made_with:
                assert len((await list_agents(page_token=token, **used_with)).agents) == 2
                continue
            with subtests.test(f"{made_with} {used_with}"), raises_status(INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
                await list_agents(page_token=token, **used_with)


async def test_a_filter_lets_through_what_it_says_and_the_total_counts_that(
    create: Any, list_agents: Any, as_user: Any, subtests: pytest.Subtests
) -> None:
    ann = as_user("ann")
    await create(ann, name="Scribe one", model_name="echo-1")
    await create(ann, name="Scribe two", model_name="echo-2", is_active=False)
    await create(ann, name="Clerk", model_name="echo-2")
    await create(ann, name="100%_sure", model_name="Echo-1")
    await create(as_user("bob"), name="Scribe of bob", model_name="echo-1")
    for written, found in {
        'name:"scribe"': ["Scribe one", "Scribe two"],
        'name = "CLERK"': ["Clerk"],
        "name:'%_'": ["100%_sure"],
        'model_name = "echo-1"': ["Scribe one"],
        "is_active = true": ["100%_sure", "Clerk", "Scribe one"],
        "is_active=false": ["Scribe two"],
        'name:"e" AND model_name = "echo-2" AND is_active = true': ["Clerk"],
        'name = "nobody"': [],
        "": ["100%_sure", "Clerk", "Scribe one", "Scribe two"],
    }.items():
        with subtests.test(written):
            listed, totals, _ = await all_pages(list_agents, filter=written, order_by="name", page_size=1)
            assert [agent.name for agent in listed] == found
            assert totals == {len(found)}
            assert sorted(names(await list_agents(filter=written))) == found


async def test_a_filter_that_the_list_does_not_know_is_refused(list_agents: Any, subtests: pytest.Subtests) -> None:
    for written in ['user_id = "x"', "is_active = yes", "is_active != true", 'name > "a"', "name", "name:a OR name:b"]:
        with subtests.test(written), raises_status(INVALID_ARGUMENT, "FILTER_INVALID", fields=["filter"]):
            await list_agents(filter=written)


async def test_deleted_agents_are_listed_among_the_others_when_asked_for(
    create: Any, delete: Any, list_agents: Any, as_user: Any
) -> None:
    made = [await create(as_user("ann"), name=name) for name in ("aaa", "bbb", "ccc")]
    made[1] = await delete(made[1])
    with_deleted, totals, _ = await all_pages(list_agents, show_deleted=True, page_size=1)
    assert (with_deleted, totals) == (made[::-1], {3})
    assert [agent.HasField("delete_time") for agent in with_deleted] == [False, True, False]
    by_name = await list_agents(show_deleted=True, order_by="name", filter='name:"b" AND is_active = true')
    assert (list(by_name.agents), by_name.total_size) == ([made[1]], 1)
    without = await list_agents()
    assert (list(without.agents), without.total_size) == ([made[2], made[0]], 2)
    assert (await list_agents("bob", show_deleted=True)).total_size == 0
