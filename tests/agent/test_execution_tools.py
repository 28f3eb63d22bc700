"""Executions whose model uses tools: model, MCP server and agent service, each over the network."""

from typing import Any

import grpc
import pytest

from parley.agent.v1 import error_reason_pb2 as reasons
from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from tests.agent.conftest import draft
from tests.agent.providers.script import Call, calling, saying
from tests.agent.providers.server import ProviderServer
from tests.agent.runs import get, run, watching
from tests.agent.tool_server import ToolServer, refusing_server, tool_server
from tests.support import Metadata, reason_of, status_of, until


class Installation:
    """An agent service that knows a scripted model and the tools of one server, `kit`."""

    def __init__(self, channel: Any, provider: ProviderServer, metadata: Metadata) -> None:
        self.executions = ExecutionServiceStub(channel)
        self.provider = provider
        self.ann = metadata
        self._agents = AgentServiceStub(channel)

    async def agent(self, *tools: str) -> str:
        request = draft(model_name="some-model")
        request.config["tools"] = list(tools)
        return str((await self._agents.CreateAgent(request, metadata=self.ann)).agent.id)


@pytest.fixture
def tools() -> Any:
    with tool_server().running() as server:
        yield server


@pytest.fixture
async def installation(serve: Any, settings: Any, as_user: Any, tools: ToolServer) -> Any:
    async with ProviderServer() as provider:
        channel = await serve(
            open_agent,
            settings(
                AgentSettings,
                agent_port=0,
                agent_model_routes="*=openai",
                agent_openai_base_url=provider.openai_url,
                agent_mcp_servers=f"kit={tools.url}",
                agent_tool_seconds=1,
                agent_max_tool_rounds=3,
            ),
        )
        yield Installation(channel, provider, as_user("ann"))


async def test_a_model_uses_tools_and_is_told_what_came_of_it(installation: Installation, tools: ToolServer) -> None:
    installation.provider.will(
        *calling(Call.of("kit__add", {"a": 2, "b": 3}, "1"), Call.of("kit__fails", {"why": "closed"}, "2"))
    )
    installation.provider.will(*saying("It is 5."))
    agent_id = await installation.agent("kit.add", "kit.fails")
    created, told = await run(installation.executions, installation.ann, agent_id=agent_id, input="Add 2 and 3.")
    assert told.states == ["QUEUED", "RUNNING", "SUCCEEDED"]
    assert told.text == "It is 5."
    assert [(call.name, dict(call.arguments)) for call in told.of_kind("tool_call")] == [
        ("kit__add", {"a": 2, "b": 3}),
        ("kit__fails", {"why": "closed"}),
    ]
    good, bad = told.of_kind("tool_result")
    assert (good.tool_call_id, good.text, good.is_error) == (told.of_kind("tool_call")[0].tool_call_id, "5", False)
    assert bad.is_error
    assert "closed" in bad.text
    asked, again = (request.body for request in installation.provider.requests)
    assert [tool["function"]["name"] for tool in asked["tools"]] == ["kit__add", "kit__fails"]
    outcomes = [message["content"] for message in again["messages"] if message["role"] == "tool"]
    assert outcomes[0] == "5"
    assert "closed" in outcomes[1]
    assert (await get(installation.executions, created.id, installation.ann)).output == "It is 5."
    await until(lambda: tools.connections == 0)


async def test_a_tool_that_hangs_does_not_hold_up_a_cancellation(installation: Installation, tools: ToolServer) -> None:
    installation.provider.will(*calling(Call.of("kit__hangs", {"name": "run"})))
    request = pb2.CreateExecutionRequest(agent_id=await installation.agent("kit.*"), input="Wait.")
    created = (await installation.executions.CreateExecution(request, metadata=installation.ann)).execution
    await until(lambda: "run" in tools.hanging)
    cancel = pb2.CancelExecutionRequest(id=created.id)
    await installation.executions.CancelExecution(cancel, metadata=installation.ann)
    async with watching(installation.executions, created.id, installation.ann) as call:
        async for _ in call:
            pass
    ended = await get(installation.executions, created.id, installation.ann)
    assert ended.state == pb2.EXECUTION_STATE_CANCELLED
    await until(lambda: "run" not in tools.hanging and tools.connections == 0)


async def test_tools_that_cannot_be_had_fail_the_execution_with_the_reason(
    installation: Installation, tools: ToolServer
) -> None:
    lacking, closed = await installation.agent("kit.lookup"), await installation.agent("kit.add")
    _, told = await run(installation.executions, installation.ann, agent_id=lacking, input="Look it up.")
    failure = told.of_kind("state_changed")[-1].failure
    assert (failure.reason, failure.message) == (
        reasons.ERROR_REASON_TOOLS_UNAVAILABLE,
        "The tool server kit has no tool lookup.",
    )
    tools.close()
    _, told = await run(installation.executions, installation.ann, agent_id=closed, input="Add.")
    failure = told.of_kind("state_changed")[-1].failure
    assert failure.reason == reasons.ERROR_REASON_TOOLS_UNAVAILABLE
    assert failure.message.startswith("The tool server kit cannot be reached")
    assert installation.provider.requests == []


async def test_why_tools_cannot_be_had_is_kept_as_far_as_it_is_text(serve: Any, settings: Any, as_user: Any) -> None:
    with refusing_server("no\0t today").running() as server:
        given = {"agent_port": 0, "agent_mcp_servers": f"kit={server.url}"}
        channel = await serve(open_agent, settings(AgentSettings, **given))
        request = draft()
        request.config["tools"] = ["kit.*"]
        agent = (await AgentServiceStub(channel).CreateAgent(request, metadata=as_user("ann"))).agent
        _, told = await run(ExecutionServiceStub(channel), as_user("ann"), agent_id=agent.id, input="Add.")
    assert told.states == ["QUEUED", "RUNNING", "FAILED"]
    assert told.of_kind("state_changed")[-1].failure.message == "The tool server kit refuses: no\ufffdt today."


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["crm.add"], "This installation has no server of tools named crm."),
        (["add"], "config.tools[0] must be of the form server.tool or server.*."),
    ],
    ids=["unknown", "malformed"],
)
async def test_wrong_names_of_tools_are_refused_at_once(
    installation: Installation, names: list[str], says: str
) -> None:
    request = pb2.CreateExecutionRequest(agent_id=await installation.agent(*names), input="Add.")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await installation.executions.CreateExecution(request, metadata=installation.ann)
    assert reason_of(status_of(caught.value)) == "TOOLS_INVALID"
    assert caught.value.details() == says


async def test_a_model_that_wants_tools_for_ever_is_stopped(installation: Installation) -> None:
    installation.provider.otherwise = calling(Call.of("kit__add", {"a": 1, "b": 1}))
    agent_id = await installation.agent("kit.add")
    _, told = await run(installation.executions, installation.ann, agent_id=agent_id, input="Count.")
    assert told.states[-1] == "FAILED"
    assert len(told.of_kind("tool_result")) == 3
    assert told.of_kind("state_changed")[-1].failure.reason == reasons.ERROR_REASON_TOO_MANY_TOOL_ROUNDS
