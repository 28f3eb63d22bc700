"""Executions as their owner sees them: created, watched, listed, cancelled."""

import asyncio
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from parley.agent.v1 import agent_service_pb2 as agent_pb2
from parley.agent.v1 import error_reason_pb2 as reasons
from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from tests.agent.conftest import Create
from tests.agent.runs import get, run, watch, watching
from tests.support import raises_status

LONG = "many words that take their time to be said " * 200


async def test_a_run_is_told_event_by_event_and_kept_as_it_was_told(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann)
    text = "Ünïcode wörds, 四つの言葉, and a smile 🙂 at the end"
    created, told = await run(executions, ann, agent_id=agent.id, input=text)
    assert created.state == pb2.EXECUTION_STATE_QUEUED
    assert (created.agent_id, created.agent_revision, created.user_id) == (agent.id, 1, agent.user_id)
    assert told.states == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert told.text == text
    assert told.caught_up == 1
    kept = await get(executions, created.id, ann)
    assert (kept.state, kept.output, kept.input) == (pb2.EXECUTION_STATE_SUCCEEDED, text, text)
    assert kept.last_sequence == told.sequence
    assert kept.usage == told.of_kind("usage")[-1]
    assert kept.usage.output_tokens == len(text.split())
    assert kept.start_time.ToDatetime() >= kept.create_time.ToDatetime()
    assert kept.end_time.ToDatetime() >= kept.start_time.ToDatetime()
    again = await watch(executions, created.id, ann)
    assert again.events == told.events
    assert again.caught_up == 1


async def test_a_watcher_gets_what_comes_after_its_cursor(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    created, told = await run(executions, ann, agent_id=(await create(ann)).id, input="a b c")
    async with watching(executions, created.id, ann, after=told.sequence) as call:
        rest = [response async for response in call]
    assert [response.caught_up.sequence for response in rest] == [told.sequence]
    assert not any(response.events for response in rest)
    with raises_status(StatusCode.OUT_OF_RANGE, "CURSOR_INVALID"):
        async with watching(executions, created.id, ann, after=told.sequence + 1) as call:
            await call.read()


async def test_the_same_request_id_gives_the_same_execution(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    request = pb2.CreateExecutionRequest(agent_id=(await create(ann)).id, input="once", request_id=str(uuid4()))
    first, *others = await asyncio.gather(*(executions.CreateExecution(request, metadata=ann) for _ in range(8)))
    assert {other.execution.id for other in others} == {first.execution.id}
    assert (await executions.ListExecutions(pb2.ListExecutionsRequest(), metadata=ann)).total_size == 1
    request.input = "twice"
    with raises_status(StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await executions.CreateExecution(request, metadata=ann)


async def test_a_run_with_the_request_id_of_another_goes_on_with_that_one(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    fields: dict[str, Any] = {"agent_id": (await create(ann)).id, "input": "said once", "request_id": str(uuid4())}
    first, told = await run(executions, ann, **fields)
    second, told_again = await run(executions, ann, **fields)
    assert second.id == first.id
    assert told_again.events == told.events


async def test_an_execution_is_nobody_elses(executions: ExecutionServiceStub, create: Create, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    agent = await create(ann)
    created, _ = await run(executions, ann, agent_id=agent.id, input="mine")
    for attempt in (
        lambda: executions.GetExecution(pb2.GetExecutionRequest(id=created.id), metadata=bob),
        lambda: executions.CancelExecution(pb2.CancelExecutionRequest(id=created.id), metadata=bob),
        lambda: watch(executions, created.id, bob),
    ):
        with raises_status(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND"):
            await attempt()
    with raises_status(StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"):
        await executions.CreateExecution(pb2.CreateExecutionRequest(agent_id=agent.id, input="yours"), metadata=bob)
    assert (await executions.ListExecutions(pb2.ListExecutionsRequest(), metadata=bob)).total_size == 0


async def test_what_cannot_run_is_refused_and_leaves_nothing(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    idle = await create(ann, is_active=False)
    unknown = await create(ann, model_name="no-such-model")
    fine = await create(ann)
    for agent, code, reason in (
        (idle, StatusCode.FAILED_PRECONDITION, "AGENT_INACTIVE"),
        (unknown, StatusCode.FAILED_PRECONDITION, "MODEL_UNAVAILABLE"),
    ):
        with raises_status(code, reason):
            await executions.CreateExecution(pb2.CreateExecutionRequest(agent_id=agent.id, input="go"), metadata=ann)
    for fields in (
        {"input": ""},
        {"input": " \n"},
        {"input": "x" * 131_073},
        {"budget": pb2.Budget(max_tokens=-1)},
        {"budget": pb2.Budget(timeout=Duration(seconds=0))},
        {"budget": pb2.Budget(timeout=Duration(seconds=86_401))},
        {"conversation_id": "talk"},
        {"request_id": "1"},
        {"file_ids": ["1"]},
        {"file_ids": [str(uuid4())] * 2},
        {"overlap": 9},
        {"on_disconnect": 9},
    ):
        request = pb2.CreateExecutionRequest(**{"agent_id": fine.id, "input": "go", **fields})  # type: ignore[arg-type]  # on purpose
        with raises_status(StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED"):
            await executions.CreateExecution(request, metadata=ann)
    assert (await executions.ListExecutions(pb2.ListExecutionsRequest(), metadata=ann)).total_size == 0


async def test_what_runs_is_cancelled_within_two_seconds_and_keeps_what_it_said(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    request = pb2.CreateExecutionRequest(agent_id=(await create(ann)).id, input=LONG)
    execution = (await executions.CreateExecution(request, metadata=ann)).execution
    async with watching(executions, execution.id, ann) as call:
        async for response in call:
            if any(event.HasField("text_delta") for event in response.events):
                break
    cancelled = await executions.CancelExecution(pb2.CancelExecutionRequest(id=execution.id), metadata=ann)
    assert cancelled.execution.state == pb2.EXECUTION_STATE_CANCELLING
    async with asyncio.timeout(2):
        told = await watch(executions, execution.id, ann)
    assert told.states == ["QUEUED", "RUNNING", "CANCELLING", "CANCELLED"]
    kept = await get(executions, execution.id, ann)
    assert LONG.startswith(kept.output)
    assert kept.output == told.text != ""
    assert not kept.HasField("failure")
    again = await executions.CancelExecution(pb2.CancelExecutionRequest(id=execution.id), metadata=ann)
    assert again.execution == kept


async def test_a_budget_of_tokens_ends_a_run_that_has_more_to_say(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann)
    created, told = await run(
        executions, ann, agent_id=agent.id, input="one two three four", budget=pb2.Budget(max_tokens=2)
    )
    assert told.states[-1] == "BUDGET_EXCEEDED"
    kept = await get(executions, created.id, ann)
    assert kept.failure.reason == reasons.ERROR_REASON_MAX_TOKENS_REACHED
    assert kept.output == "one two "
    _, enough = await run(executions, ann, agent_id=agent.id, input="one two", budget=pb2.Budget(max_tokens=2))
    assert enough.states[-1] == "SUCCEEDED"


async def test_a_budget_of_time_ends_a_run_within_one_batch_of_events(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    budget = pb2.Budget(timeout=Duration(nanos=300_000_000))
    created, told = await run(executions, ann, agent_id=(await create(ann)).id, input=LONG, budget=budget)
    assert told.states[-1] == "BUDGET_EXCEEDED"
    kept = await get(executions, created.id, ann)
    assert kept.failure.reason == reasons.ERROR_REASON_TIMEOUT_REACHED
    ran = kept.end_time.ToDatetime() - kept.start_time.ToDatetime()
    assert 0.3 <= ran.total_seconds() < 0.3 + 0.15
    assert LONG.startswith(kept.output)
    assert kept.output == told.text != ""


async def test_a_budget_of_less_time_than_can_be_measured_is_a_budget(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    budget = pb2.Budget(timeout=Duration(nanos=1))
    _, told = await run(executions, ann, agent_id=(await create(ann)).id, input=LONG, budget=budget)
    assert told.states[-1] == "BUDGET_EXCEEDED"


async def test_a_deleted_agents_executions_are_cancelled(
    executions: ExecutionServiceStub, agents: AgentServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann)
    request = pb2.CreateExecutionRequest(agent_id=agent.id, input=LONG)
    execution = (await executions.CreateExecution(request, metadata=ann)).execution
    await agents.DeleteAgent(agent_pb2.DeleteAgentRequest(id=agent.id), metadata=ann)
    async with asyncio.timeout(3):
        await watch(executions, execution.id, ann)
    kept = await get(executions, execution.id, ann)
    assert kept.state == pb2.EXECUTION_STATE_CANCELLED
    assert kept.failure.reason == reasons.ERROR_REASON_AGENT_DELETED


async def test_the_list_has_the_newest_first_and_filters(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    scribe, poet = await create(ann), await create(ann)
    made = [(await run(executions, ann, agent_id=agent.id, input="x"))[0].id for agent in (scribe, poet, scribe)]

    async def listed(**fields: Any) -> list[str]:
        page = await executions.ListExecutions(pb2.ListExecutionsRequest(**fields), metadata=ann)
        assert not any(execution.output for execution in page.executions)
        return [execution.id for execution in page.executions]

    assert await listed() == made[::-1]
    assert await listed(filter=f'agent_id = "{scribe.id}"') == [made[2], made[0]]
    assert await listed(filter="state = SUCCEEDED") == made[::-1]
    assert await listed(filter="state != SUCCEEDED") == []
    page = await executions.ListExecutions(pb2.ListExecutionsRequest(page_size=2), metadata=ann)
    assert page.total_size == 3
    assert await listed(page_size=2, page_token=page.next_page_token) == made[:1]
    with raises_status(StatusCode.INVALID_ARGUMENT, "FILTER_INVALID"):
        await listed(filter="state = DONE")


@pytest.mark.parametrize("overlap", [pb2.OVERLAP_UNSPECIFIED, pb2.OVERLAP_REJECT])
async def test_a_busy_conversation_refuses_another_execution(
    executions: ExecutionServiceStub, create: Create, as_user: Any, overlap: Any
) -> None:
    ann = as_user("ann")
    fields: dict[str, Any] = {"agent_id": (await create(ann)).id, "conversation_id": str(uuid4())}
    first = await executions.CreateExecution(pb2.CreateExecutionRequest(input=LONG, **fields), metadata=ann)
    with raises_status(StatusCode.FAILED_PRECONDITION, "CONVERSATION_BUSY"):
        await executions.CreateExecution(
            pb2.CreateExecutionRequest(input="next", overlap=overlap, **fields), metadata=ann
        )
    await executions.CancelExecution(pb2.CancelExecutionRequest(id=first.execution.id), metadata=ann)
    await watch(executions, first.execution.id, ann)
    _, told = await run(executions, ann, input="next", **fields)
    assert told.states[-1] == "SUCCEEDED"


async def test_a_conversation_takes_its_executions_one_by_one_in_their_order(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    fields: dict[str, Any] = {
        "agent_id": (await create(ann)).id,
        "conversation_id": str(uuid4()),
        "overlap": pb2.OVERLAP_QUEUE,
    }
    made = [
        (
            await executions.CreateExecution(pb2.CreateExecutionRequest(input=f"say {n}", **fields), metadata=ann)
        ).execution
        for n in range(4)
    ]
    for execution in made:
        await watch(executions, execution.id, ann)
    kept = [await get(executions, execution.id, ann) for execution in made]
    for before, after in pairwise(kept):
        assert before.end_time.ToDatetime() <= after.start_time.ToDatetime()


async def test_an_execution_may_take_the_place_of_those_before_it(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    fields: dict[str, Any] = {"agent_id": (await create(ann)).id, "conversation_id": str(uuid4())}
    queued = pb2.OVERLAP_QUEUE
    earlier = [
        (
            await executions.CreateExecution(
                pb2.CreateExecutionRequest(input=LONG, overlap=queued, **fields), metadata=ann
            )
        ).execution
        for _ in range(3)
    ]
    _, told = await run(executions, ann, input="instead", overlap=pb2.OVERLAP_CANCEL_PREVIOUS, **fields)
    assert told.text == "instead"
    for execution in earlier:
        kept = await get(executions, execution.id, ann)
        assert kept.state == pb2.EXECUTION_STATE_CANCELLED
        assert kept.failure.reason == reasons.ERROR_REASON_REPLACED
