"""UpdateAgent: the mask says what changes, the etag for which revision, and every change is a revision."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from tests.support import raises_status

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def update(agents: AgentServiceStub, as_user: Any) -> Any:
    """Updates an agent of ann's by a mask."""

    async def update(agent: pb2.Agent, paths: list[str], etag: str = "", **fields: Any) -> pb2.Agent:
        request = pb2.UpdateAgentRequest(
            id=agent.id, agent=pb2.AgentPatch(**fields), update_mask=FieldMask(paths=paths), etag=etag
        )
        return (await agents.UpdateAgent(request, metadata=as_user("ann"))).agent

    return update


@pytest.fixture
async def agent(create: Any, as_user: Any) -> pb2.Agent:
    return await create(as_user("ann"), description="Notes.", config={"a": 1, "on": True})  # type: ignore[no-any-return]  # create is a fixture


async def as_stored(agents: AgentServiceStub, agent: pb2.Agent, metadata: Any) -> pb2.Agent:
    return (await agents.GetAgent(pb2.GetAgentRequest(id=agent.id), metadata=metadata)).agent


async def test_only_the_fields_in_the_mask_change(
    agents: AgentServiceStub, update: Any, agent: pb2.Agent, as_user: Any
) -> None:
    changed = await update(agent, ["name"], name="Clerk", description="not looked at", system_prompt="x")
    expected = pb2.Agent()
    expected.CopyFrom(agent)
    expected.MergeFrom(pb2.Agent(name="Clerk", revision=2, etag=changed.etag, update_time=changed.update_time))
    assert changed == expected
    assert changed.etag != agent.etag
    assert changed.update_time.ToNanoseconds() > agent.update_time.ToNanoseconds()
    assert await as_stored(agents, agent, as_user("ann")) == changed


async def test_every_field_can_be_changed(update: Any, agent: pb2.Agent) -> None:
    values: dict[str, Any] = {
        "name": "Clerk",
        "description": "Files.",
        "model_name": "echo-2",
        "system_prompt": "You put things in order.",
        "config": {"b": [2]},
        "is_active": False,
    }
    changed = await update(agent, list(values), **values)
    assert changed.revision == 2
    assert pb2.AgentPatch(**{name: getattr(changed, name) for name in values}) == pb2.AgentPatch(**values)


async def test_a_masked_field_that_is_unset_is_cleared(update: Any, agent: pb2.Agent) -> None:
    changed = await update(agent, ["description", "config", "is_active"])
    assert (changed.description, dict(changed.config), changed.is_active) == ("", {}, False)
    assert changed.name == agent.name


async def test_a_star_stands_for_every_field(update: Any, agent: pb2.Agent) -> None:
    changed = await update(agent, ["*"], name="Clerk", model_name="echo-2", system_prompt="You put things in order.")
    assert (changed.name, changed.description, dict(changed.config), changed.is_active) == ("Clerk", "", {}, False)


async def test_a_field_that_an_agent_needs_cannot_be_cleared(
    agents: AgentServiceStub, update: Any, agent: pb2.Agent, as_user: Any, subtests: pytest.Subtests
) -> None:
    for field in ["name", "model_name", "system_prompt"]:
        with subtests.test(field=field):
            with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[f"agent.{field}"]):
                await update(agent, [field])
            assert await as_stored(agents, agent, as_user("ann")) == agent


async def test_a_masked_field_is_held_to_the_limits_of_create(
    agents: AgentServiceStub, update: Any, agent: pb2.Agent, as_user: Any, subtests: pytest.Subtests
) -> None:
    for field, value in [
        ("name", "ab"),
        ("name", "   "),
        ("name", "n" * 65),
        ("description", "d" * 2001),
        ("model_name", "m" * 101),
        ("system_prompt", "too short"),
        ("system_prompt", "s" * 32_769),
    ]:
        with subtests.test(f"{field} of {len(value)} characters"):
            with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[f"agent.{field}"]):
                await update(agent, [field], **{field: value})
            assert await as_stored(agents, agent, as_user("ann")) == agent


async def test_a_mask_that_names_anything_else_is_refused(
    agents: AgentServiceStub, update: Any, agent: pb2.Agent, as_user: Any, subtests: pytest.Subtests
) -> None:
    for case, paths in {
        "empty": [],
        "unknown": ["nickname"],
        "one of two unknown": ["name", "nickname"],
        "set by the server": ["id"],
        "counted by the server": ["revision"],
        "a part of config": ["config.temperature"],
        "a path from the request": ["agent.name"],
        "another case": ["Name"],
        "an empty path": [""],
        "a star among others": ["*", "name"],
        "too long to repeat in the answer": ["x" * 100_000],
    }.items():
        with subtests.test(case):
            with raises_status(INVALID_ARGUMENT, "UPDATE_MASK_INVALID", fields=["update_mask"]):
                await update(agent, paths, name="Clerk")
            assert await as_stored(agents, agent, as_user("ann")) == agent


async def test_an_update_without_a_mask_is_refused(agents: AgentServiceStub, agent: pb2.Agent, as_user: Any) -> None:
    request = pb2.UpdateAgentRequest(id=agent.id, agent=pb2.AgentPatch(name="Clerk"))
    with raises_status(INVALID_ARGUMENT, "UPDATE_MASK_INVALID", fields=["update_mask"]):
        await agents.UpdateAgent(request, metadata=as_user("ann"))


async def test_an_update_without_an_agent_is_refused(agents: AgentServiceStub, agent: pb2.Agent, as_user: Any) -> None:
    request = pb2.UpdateAgentRequest(id=agent.id, update_mask=FieldMask(paths=["description"]))
    with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["agent"]):
        await agents.UpdateAgent(request, metadata=as_user("ann"))


async def test_an_update_that_changes_nothing_keeps_the_revision(update: Any, agent: pb2.Agent) -> None:
    same = await update(
        agent, ["name", "config", "is_active"], name=agent.name, config={"on": True, "a": 1}, is_active=True
    )
    assert same == agent


async def test_true_in_place_of_one_is_a_change(update: Any, agent: pb2.Agent) -> None:
    changed = await update(agent, ["config"], config={"a": True, "on": True})
    assert changed.revision == 2
    assert changed.config["a"] is True


async def test_the_etag_of_now_is_taken_and_a_stale_one_is_refused(
    agents: AgentServiceStub, update: Any, agent: pb2.Agent, as_user: Any
) -> None:
    changed = await update(agent, ["name"], etag=agent.etag, name="Clerk")
    with raises_status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await update(agent, ["name"], etag=agent.etag, name="Guard")
    assert await as_stored(agents, agent, as_user("ann")) == changed


async def test_a_stale_etag_is_refused_when_nothing_would_change(update: Any, agent: pb2.Agent) -> None:
    await update(agent, ["name"], name="Clerk")
    with raises_status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await update(agent, ["name"], etag=agent.etag, name="Clerk")


async def test_the_etag_of_another_agent_is_refused(update: Any, create: Any, agent: pb2.Agent, as_user: Any) -> None:
    other = await create(as_user("ann"))
    with raises_status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await update(agent, ["name"], etag=other.etag, name="Clerk")


async def test_of_many_updates_with_one_etag_exactly_one_is_carried_out(
    agents: AgentServiceStub, update: Any, agent: pb2.Agent, as_user: Any
) -> None:
    answers = await asyncio.gather(
        *(update(agent, ["name"], etag=agent.etag, name=f"agent {n}") for n in range(8)), return_exceptions=True
    )
    carried_out = [answer for answer in answers if isinstance(answer, pb2.Agent)]
    assert len(carried_out) == 1
    assert await as_stored(agents, agent, as_user("ann")) == carried_out[0]


async def test_updates_at_once_without_an_etag_each_get_a_revision(update: Any, agent: pb2.Agent) -> None:
    answers = await asyncio.gather(*(update(agent, ["name"], name=f"agent {n}") for n in range(8)))
    assert sorted(answer.revision for answer in answers) == list(range(2, 10))
