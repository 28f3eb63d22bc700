"""Models that say what nobody can store or be sent: too large, too deep, or no text at all."""

import json
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
from tests.agent.providers.script import Call, Say, Stop, calling, saying
from tests.agent.providers.server import ProviderServer
from tests.agent.runs import Transcript, get, run
from tests.support import Metadata

MAX_OUTPUT = 1024 * 1024


class Installation:
    """An agent service with a scripted model, and no tools."""

    def __init__(self, channel: Any, provider: ProviderServer, metadata: Metadata) -> None:
        self.executions = ExecutionServiceStub(channel)
        self.agents = AgentServiceStub(channel)
        self.provider = provider
        self.ann = metadata

    async def run(self, **fields: Any) -> tuple[pb2.Execution, Transcript]:
        agent = (await self.agents.CreateAgent(draft(model_name="m-1"), metadata=self.ann)).agent
        created, told = await run(self.executions, self.ann, timeout=15, agent_id=agent.id, input="go", **fields)
        return await get(self.executions, created.id, self.ann), told


@pytest.fixture
async def installation(serve: Any, settings: Any, as_user: Any) -> AsyncIterator[Installation]:
    async with ProviderServer() as provider:
        given = {"agent_model_routes": "*=openai", "agent_openai_base_url": provider.openai_url}
        channel = await serve(open_agent, settings(AgentSettings, agent_port=0, **given))
        yield Installation(channel, provider, as_user("ann"))


@pytest.mark.parametrize("character", ["x", "é", "🙂"])
async def test_one_enormous_piece_of_text_is_kept_as_far_as_an_answer_may_go(
    installation: Installation, character: str
) -> None:
    installation.provider.otherwise = [Say(["begin "]), Say([character * 5_000_000]), Stop()]
    kept, told = await installation.run()
    assert kept.state == pb2.EXECUTION_STATE_FAILED
    assert kept.failure.reason == reasons.ERROR_REASON_OUTPUT_TOO_LARGE
    assert MAX_OUTPUT - 4 < len(kept.output.encode()) <= MAX_OUTPUT
    assert kept.output == told.text


@pytest.mark.parametrize(
    "fragments",
    [
        ['{"n": 1e999}'],
        ['{"n": 1' + "0" * 400 + "}"],
        ['{"n": ' + "[" * 60 + "]" * 60 + "}"],
        ['{"n": ' + "[" * 400 + "]" * 400 + "}"],
        [json.dumps({"n": "x" * 5_000_000})],
    ],
    ids=["infinite", "beyond-doubles", "deep", "very-deep", "large"],
)
async def test_arguments_that_cannot_be_told_are_a_garbled_answer(
    installation: Installation, fragments: list[str]
) -> None:
    installation.provider.will(*calling(Call("kit__add", fragments)))
    installation.provider.otherwise = saying("done")
    kept, told = await installation.run()
    assert told.states == ["QUEUED", "RUNNING", "FAILED"]
    assert kept.failure.reason == reasons.ERROR_REASON_PROVIDER_GARBLED


async def test_names_of_tools_that_no_database_takes_are_told_as_far_as_they_are_text(
    installation: Installation,
) -> None:
    installation.provider.will(*calling(Call("kit\0add\ud83d", id="1\0\ud83d")))
    installation.provider.otherwise = saying("done")
    _, told = await installation.run()
    assert told.states == ["QUEUED", "RUNNING", "SUCCEEDED"]
    call, result = told.of_kind("tool_call")[0], told.of_kind("tool_result")[0]
    assert (call.name, call.tool_call_id) == ("kit\ufffdadd?", "1\ufffd?")
    assert (result.tool_call_id, result.is_error) == (call.tool_call_id, True)


async def test_a_name_of_a_tool_without_end_is_not_said_again_in_full(installation: Installation) -> None:
    installation.provider.will(*calling(Call("x" * 200_000)))
    installation.provider.otherwise = saying("done")
    _, told = await installation.run()
    assert told.states == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert len(told.of_kind("tool_result")[0].text.encode()) <= 64 * 1024


async def test_calls_of_tools_have_names_of_their_own_though_the_model_repeats_them(
    installation: Installation,
) -> None:
    installation.provider.will(*calling(Call("kit__add", id="0")))
    installation.provider.will(*calling(Call("kit__add", id="0")))
    installation.provider.otherwise = saying("done")
    _, told = await installation.run()
    ids = [call.tool_call_id for call in told.of_kind("tool_call")]
    assert ids == ["0", "0_2"] == [result.tool_call_id for result in told.of_kind("tool_result")]
    asked = installation.provider.requests[-1].body["messages"]
    assert [message["tool_call_id"] for message in asked if message["role"] == "tool"] == ids
    assert [call["id"] for message in asked for call in message.get("tool_calls", ())] == ids
