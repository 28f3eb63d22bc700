"""Executions whose provider fails: a clear state, a reason, and what was said is kept. Real HTTP in both formats."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from parley.agent.v1 import error_reason_pb2 as reasons
from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from tests.agent.conftest import draft
from tests.agent.providers.script import Cut, End, Raw, Say, Status, Step, Stop, StreamError, Used, Wait, saying
from tests.agent.providers.server import ProviderServer
from tests.agent.runs import Transcript, get, run, watch
from tests.support import Metadata

SAID = ["It was ", "a dark ", "and stormy "]
PROVIDERS_WORDS = "the provider's own words"
GARBAGE = b"event: content_block_delta\ndata: {not json at all\n\n"
SOON = {"retry-after-ms": "1"}


class Installation:
    """An agent service whose models are run by the tests' provider."""

    def __init__(self, channel: Any, provider: ProviderServer, metadata: Metadata) -> None:
        self.executions = ExecutionServiceStub(channel)
        self.provider = provider
        self.ann = metadata
        self.agents = AgentServiceStub(channel)
        self.agent_id = ""

    async def run(self, **fields: Any) -> tuple[pb2.Execution, Transcript]:
        """Run an execution to its end: as it is then, and what it did."""
        created, told = await run(
            self.executions, self.ann, **{"agent_id": self.agent_id, "input": "Tell me a story.", **fields}
        )
        return await get(self.executions, created.id, self.ann), told


@pytest.fixture(params=["anthropic", "openai"])
async def installation(
    request: pytest.FixtureRequest, serve: Any, settings: Any, as_user: Any
) -> AsyncIterator[Installation]:
    kind = request.param
    async with ProviderServer() as provider:
        given = {
            "agent_model_routes": f"*={kind}",
            f"agent_{kind}_base_url": getattr(provider, f"{kind}_url"),
            "agent_provider_silence": 0.4,
            "agent_provider_retries": 1,
        }
        channel = await serve(open_agent, settings(AgentSettings, agent_port=0, **given))
        there = Installation(channel, provider, as_user("ann"))
        there.agent_id = (await there.agents.CreateAgent(draft(model_name="some-model"), metadata=there.ann)).agent.id
        yield there


@pytest.mark.parametrize(
    ("steps", "reason", "said"),
    [
        ([Status(429, PROVIDERS_WORDS, SOON)], "PROVIDER_OVERLOADED", ""),
        ([Status(529, PROVIDERS_WORDS, SOON)], "PROVIDER_OVERLOADED", ""),
        ([Status(500, PROVIDERS_WORDS, SOON)], "PROVIDER_UNAVAILABLE", ""),
        ([Cut()], "PROVIDER_UNAVAILABLE", ""),
        ([Status(401, PROVIDERS_WORDS)], "PROVIDER_REFUSED", ""),
        ([Status(400, PROVIDERS_WORDS)], "PROVIDER_REFUSED", ""),
        ([Wait()], "PROVIDER_SILENT", ""),
        ([Say(SAID), Cut()], "PROVIDER_INTERRUPTED", "".join(SAID)),
        ([Say(SAID), End()], "PROVIDER_INTERRUPTED", "".join(SAID)),
        ([Say(SAID), Wait()], "PROVIDER_SILENT", "".join(SAID)),
        (
            [Say(SAID), Raw(b"event: content_block_delta\ndata: {not json at all\n\n")],
            "PROVIDER_GARBLED",
            "".join(SAID),
        ),
        ([Say(SAID), StreamError("overloaded_error", PROVIDERS_WORDS)], None, "".join(SAID)),
        ([Say(SAID), Stop("refusal")], "MODEL_DECLINED", "".join(SAID)),
    ],
    ids=[
        *("429", "529", "500", "no-answer", "401", "400", "silence", "cut", "ended-early", "silence-in-the-middle"),
        *("garbage", "error-in-the-middle", "refusal"),
    ],
)
async def test_a_providers_fault_ends_the_execution_with_a_reason_and_keeps_what_was_said(
    installation: Installation, steps: list[Step], reason: str | None, said: str
) -> None:
    installation.provider.otherwise = steps
    async with asyncio.timeout(15):
        kept, told = await installation.run()
    assert told.states == ["QUEUED", "RUNNING", "FAILED"]
    assert kept.state == pb2.EXECUTION_STATE_FAILED
    found = reasons.ErrorReason.Name(kept.failure.reason).removeprefix("ERROR_REASON_")
    assert found == reason or (reason is None and found.startswith("PROVIDER_"))
    assert kept.output == told.text == said
    assert kept.failure == told.of_kind("state_changed")[-1].failure
    assert PROVIDERS_WORDS not in kept.failure.message


async def test_a_provider_that_is_overloaded_for_a_moment_is_asked_again(installation: Installation) -> None:
    installation.provider.will(Status(429, headers=SOON))
    installation.provider.will(*saying(*SAID))
    kept, _ = await installation.run()
    assert (kept.state, kept.output) == (pb2.EXECUTION_STATE_SUCCEEDED, "".join(SAID))
    assert len(installation.provider.requests) == 2


async def test_cancelling_closes_the_request_to_the_provider_and_keeps_what_was_said(
    installation: Installation,
) -> None:
    installation.provider.will(Say(SAID), Wait(0.1), Say(["night"], pace=0.01), Wait())
    request = pb2.CreateExecutionRequest(agent_id=installation.agent_id, input="Tell me a story.")
    execution = (await installation.executions.CreateExecution(request, metadata=installation.ann)).execution
    asked = await installation.provider.received(0)
    await asked.begun.wait()
    async with asyncio.timeout(2):
        await installation.executions.CancelExecution(
            pb2.CancelExecutionRequest(id=execution.id), metadata=installation.ann
        )
        told = await watch(installation.executions, execution.id, installation.ann)
        await asked.left.wait()
    kept = await get(installation.executions, execution.id, installation.ann)
    assert kept.state == pb2.EXECUTION_STATE_CANCELLED
    assert kept.output == told.text
    assert kept.output.startswith(SAID[0])


async def test_an_answer_that_the_budget_cuts_off_is_over_budget(installation: Installation) -> None:
    installation.provider.otherwise = [Used(10, 3), Say(SAID), Stop("max_tokens")]
    kept, told = await installation.run(budget=pb2.Budget(max_tokens=3))
    assert told.states[-1] == "BUDGET_EXCEEDED"
    assert kept.failure.reason == reasons.ERROR_REASON_MAX_TOKENS_REACHED
    assert kept.output == "".join(SAID)
    assert (kept.usage.input_tokens, kept.usage.output_tokens) == (10, 3)
    body = installation.provider.requests[0].body
    assert 3 in (body.get("max_tokens"), body.get("max_completion_tokens"))


async def test_a_model_that_minds_no_budget_is_cut_off(installation: Installation) -> None:
    installation.provider.otherwise = [Say(["word "] * 50), Stop()]
    kept, _ = await installation.run(budget=pb2.Budget(max_tokens=5))
    assert (kept.state, kept.output) == (pb2.EXECUTION_STATE_BUDGET_EXCEEDED, "word " * 5)


async def test_text_that_no_database_takes_is_kept_as_far_as_it_is_text(installation: Installation) -> None:
    installation.provider.otherwise = [Say(["a\0b", "half a pair: \ud83d", "🙂"]), Stop()]
    kept, told = await installation.run()
    assert kept.state == pb2.EXECUTION_STATE_SUCCEEDED
    assert kept.output == told.text == "a\ufffdbhalf a pair: ?🙂"


async def test_a_conversation_is_told_from_its_beginning(installation: Installation) -> None:
    talk = "01900000-0000-7000-8000-000000000001"
    for number in range(3):
        installation.provider.will(*saying(f"answer {number}"))
        await installation.run(input=f"question {number}", conversation_id=talk)
    installation.provider.will(Status(400))
    await installation.run(input="a question without an answer", conversation_id=talk)
    await installation.run(input="elsewhere")
    installation.provider.will(*saying("the last one"))
    await installation.run(input="and now?", conversation_id=talk)
    asked = installation.provider.requests[-1].body["messages"]
    said = [(m["role"], _text(m["content"])) for m in asked if m["role"] != "system"]
    assert said == [
        ("user", "question 0"),
        ("assistant", "answer 0"),
        ("user", "question 1"),
        ("assistant", "answer 1"),
        ("user", "question 2"),
        ("assistant", "answer 2"),
        ("user", "and now?"),
    ]
    alone = installation.provider.requests[-2].body["messages"]
    assert [_text(m["content"]) for m in alone if m["role"] != "system"] == ["elsewhere"]


def _text(content: Any) -> str:
    """The text of a message's content, in either format."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
