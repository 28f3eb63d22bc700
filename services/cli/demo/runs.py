"""The third chapter: agents that run."""

import uuid
from collections.abc import AsyncIterator

from grpc import StatusCode

from parley.agent.v1 import agent_service_pb2 as agent_pb2
from parley.agent.v1 import execution_service_pb2 as pb2
from services.cli.demo.steps import Steps, WrongAnswer, expect, refused
from services.cli.demo.suite import STREAM_SECONDS, Person, Suite, call

SAID = "Every word of this comes back, one after the other, and none of them twice. " * 3
LONG = "This would go on for a very long time. " * 500


async def work(suite: Suite, steps: Steps, ann: Person, bob: Person) -> None:
    """An agent answers word by word, through a broken connection, and stops when it is told to."""
    request = agent_pb2.CreateAgentRequest(
        name="Echo", model_name="echo-1", system_prompt="You say what you were told.", request_id=str(uuid.uuid4())
    )
    request.config.update({"echo": {"delay_ms": 10}})
    agent = (await call(suite.agent.CreateAgent, request, ann)).agent
    text = ""

    async with steps.step("Ann lets an agent run; the connection breaks in the middle, and she goes on where it did"):
        created = await call(
            suite.executions.CreateExecution,
            pb2.CreateExecutionRequest(agent_id=agent.id, input=SAID, request_id=str(uuid.uuid4())),
            ann,
        )
        last = 0
        async for event in _watched(suite, ann, created.execution.id, last):
            text, last = _applied(text, event), event.sequence
            if len(text) > len(SAID) // 3:
                break
        expect(len(text) < len(SAID), True, "that the connection broke in the middle")
        async for event in _watched(suite, ann, created.execution.id, last):
            expect(event.sequence, last + 1, "the number of the next event")
            text, last = _applied(text, event), event.sequence
        expect(text, SAID, "the text")
        kept = await _kept(suite, ann, created.execution.id)
        expect((kept.state, kept.output), (pb2.EXECUTION_STATE_SUCCEEDED, SAID), "what is kept")

    async with steps.step("Bob does not see her execution"):
        with refused(StatusCode.NOT_FOUND, "EXECUTION_NOT_FOUND", "Bob's look at Ann's execution"):
            await call(suite.executions.GetExecution, pb2.GetExecutionRequest(id=created.execution.id), bob)

    async with steps.step("She cancels one that would take long; what it has said is kept"):
        long = await call(
            suite.executions.CreateExecution, pb2.CreateExecutionRequest(agent_id=agent.id, input=LONG), ann
        )
        text = ""
        async for event in _watched(suite, ann, long.execution.id, 0):
            if event.HasField("text_delta") and not text:
                await call(suite.executions.CancelExecution, pb2.CancelExecutionRequest(id=long.execution.id), ann)
            text = _applied(text, event)
        kept = await _kept(suite, ann, long.execution.id)
        expect((kept.state, kept.output), (pb2.EXECUTION_STATE_CANCELLED, text), "what is kept")
        expect(0 < len(text) < len(LONG), True, "that it was cancelled in the middle")
    await call(suite.agent.DeleteAgent, agent_pb2.DeleteAgentRequest(id=agent.id), ann)


async def _kept(suite: Suite, person: Person, execution_id: str) -> pb2.Execution:
    """An execution as it is now."""
    request = pb2.GetExecutionRequest(id=execution_id)
    return (await call(suite.executions.GetExecution, request, person)).execution


async def _watched(suite: Suite, person: Person, execution_id: str, after: int) -> AsyncIterator[pb2.ExecutionEvent]:
    """The events of an execution after a position, to its end."""
    request = pb2.WatchExecutionRequest(id=execution_id, after_sequence=after)
    stream = suite.executions.WatchExecution(request, metadata=person.metadata, timeout=STREAM_SECONDS)
    try:
        async for response in stream:
            if response.HasField("gap"):
                raise WrongAnswer("events of a new execution are gone")
            for event in response.events:
                yield event
    finally:
        stream.cancel()


def _applied(text: str, event: pb2.ExecutionEvent) -> str:
    """The text with what an event adds to it."""
    if not event.HasField("text_delta"):
        return text
    return text.encode()[: event.text_delta.offset].decode() + event.text_delta.text
