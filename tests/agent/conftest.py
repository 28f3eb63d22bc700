"""A running agent service, and the shortest request that creates an agent."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent

Metadata = tuple[tuple[str, str], ...]
Create = Callable[..., Awaitable[pb2.Agent]]


def draft(**fields: Any) -> pb2.CreateAgentRequest:
    return pb2.CreateAgentRequest(
        **{"name": "Scribe", "model_name": "echo-1", "system_prompt": "You write down what is said.", **fields}
    )


@pytest.fixture
async def channel(serve: Any, settings: Any) -> grpc.aio.Channel:
    return await serve(open_agent, settings(AgentSettings, agent_port=0))  # type: ignore[no-any-return]  # `serve` is


@pytest.fixture
def agents(channel: grpc.aio.Channel) -> AgentServiceStub:
    return AgentServiceStub(channel)


@pytest.fixture
def executions(channel: grpc.aio.Channel) -> ExecutionServiceStub:
    return ExecutionServiceStub(channel)


@pytest.fixture
def create(agents: AgentServiceStub) -> Create:
    """Creates an agent for whom the metadata is; fields given take the place of the draft's."""

    async def create(metadata: Metadata, **fields: Any) -> pb2.Agent:
        return (await agents.CreateAgent(draft(**fields), metadata=metadata)).agent

    return create
