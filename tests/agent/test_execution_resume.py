"""Watchers that lose their connection, come late, or come when the events are gone."""

import asyncio
import random
from typing import Any

import pytest

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.jobs import PURGE_EVENTS
from services.agent.settings import AgentJobSettings, AgentSettings
from services.agent.wiring import open_agent, open_agent_jobs
from tests.agent.conftest import Create, draft
from tests.agent.runs import Transcript, get, run, watch, watching

pytestmark = pytest.mark.slow

DELTAS = 2000
CUTS = 50
SEED = 20_260_714


async def test_a_watcher_cut_off_fifty_times_has_the_text_byte_for_byte_from_whichever_replica(
    serve: Any, settings: Any, as_user: Any
) -> None:
    ann = as_user("ann")
    channels = [await serve(open_agent, settings(AgentSettings, agent_port=0)) for _ in range(2)]
    replicas = [ExecutionServiceStub(channel) for channel in channels]
    agent = draft(config={"echo": {"delay_ms": 3}})
    agent_id = (await AgentServiceStub(channels[0]).CreateAgent(agent, metadata=ann)).agent.id
    text = " ".join(f"wörd{number}🙂" if number % 7 == 0 else f"word{number}" for number in range(DELTAS))
    request = pb2.CreateExecutionRequest(agent_id=agent_id, input=text)
    execution = (await replicas[0].CreateExecution(request, metadata=ann)).execution
    chance = random.Random(SEED)
    points = sorted(chance.sample(range(1, len(text.encode()) * 9 // 10), CUTS))
    transcript, cuts = Transcript(), 0
    for turn in range(10 * CUTS):
        async with watching(replicas[turn % 2], execution.id, ann, transcript.sequence) as call:
            async for response in call:
                transcript.take(response)
                if points and len(transcript.output) >= points[0]:
                    points = points[1:]
                    cuts += 1
                    break
            else:
                break
    assert cuts == CUTS
    kept = await get(replicas[1], execution.id, ann)
    assert kept.state == pb2.EXECUTION_STATE_SUCCEEDED
    assert transcript.output == kept.output.encode() == text.encode()
    assert transcript.sequence == kept.last_sequence
    assert kept.usage.output_tokens == DELTAS
    assert (await watch(replicas[0], execution.id, ann)).events == transcript.events


async def test_a_hundred_watchers_of_one_execution_all_have_all_of_it(
    executions: ExecutionServiceStub, create: Create, as_user: Any
) -> None:
    ann = as_user("ann")
    agent = await create(ann, config={"echo": {"delay_ms": 5}})
    request = pb2.CreateExecutionRequest(agent_id=agent.id, input="word " * 100)
    execution = (await executions.CreateExecution(request, metadata=ann)).execution

    async def come_late(number: int) -> Transcript:
        await asyncio.sleep(number * 0.01)
        return await watch(executions, execution.id, ann)

    told = await asyncio.gather(*(come_late(number) for number in range(90)))
    assert all(transcript.events == told[0].events for transcript in told)
    assert told[0].text == "word " * 100


@pytest.mark.parametrize("after", [0, 2])
async def test_events_that_are_no_longer_kept_are_a_gap_and_the_output_stays(
    executions: ExecutionServiceStub, create: Create, as_user: Any, settings: Any, after: int
) -> None:
    ann = as_user("ann")
    agent_id = (await create(ann)).id
    execution, told = await run(executions, ann, agent_id=agent_id, input="a long time ago")
    kept_longer, _ = await run(executions, ann, agent_id=agent_id, input="yesterday")
    async with open_agent_jobs(settings(AgentJobSettings, agent_events_kept=0.001)) as jobs:
        (job,) = (job for job in jobs if job.name == PURGE_EVENTS)
        await job.run()
        await job.run()
    again = Transcript()
    again.sequence = after
    await watch(executions, execution.id, ann, again)
    assert again.gaps == [(after + 1, told.sequence)]
    assert again.events == []
    assert again.caught_up == 1
    kept = await get(executions, execution.id, ann)
    assert (kept.output, kept.last_sequence) == ("a long time ago", told.sequence)
    assert (await get(executions, kept_longer.id, ann)).output == "yesterday"


async def test_only_old_events_go(
    executions: ExecutionServiceStub, create: Create, as_user: Any, settings: Any
) -> None:
    ann = as_user("ann")
    execution, told = await run(executions, ann, agent_id=(await create(ann)).id, input="just now")
    async with open_agent_jobs(settings(AgentJobSettings)) as jobs:
        (job,) = (job for job in jobs if job.name == PURGE_EVENTS)
        await job.run()
    assert (await watch(executions, execution.id, ann)).events == told.events
