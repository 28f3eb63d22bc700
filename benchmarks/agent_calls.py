"""RPCs of the agent service, as real calls through the stubs and as something to put under load."""

import asyncio
from typing import Any

import grpc
from google.protobuf.message import Message

from benchmarks.load import Target, grpc_frame
from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub

CALL_SECONDS = 20.0


def bearer(token: str) -> str:
    """The value of the header `authorization`."""
    return f"Bearer {token}"


def call_agents(address: str, token: str, method: str, request: Message) -> Any:
    """The answer to one real call. Raises grpc.RpcError."""

    async def call() -> Any:
        async with grpc.aio.insecure_channel(address) as channel:
            return await getattr(AgentServiceStub(channel), method)(
                request,
                metadata=(("authorization", bearer(token)),),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
            )

    return asyncio.run(call())


def agents_target(address: str, token: str, method: str, request: Message, *, varies: int = 0) -> Target:
    """The same call over and over; what a right answer looks like is found out by making it once."""
    answer: Message = call_agents(address, token, method, request)
    return Target(
        url=f"http://{address}/parley.agent.v1.AgentService/{method}",
        headers={"content-type": "application/grpc", "te": "trailers", "authorization": bearer(token)},
        answer_bytes=len(grpc_frame(answer.SerializeToString())),
        varies=varies,
        body=grpc_frame(request.SerializeToString()),
        is_grpc=True,
    )


def get_agent_target(address: str, token: str, agent_id: str) -> Target:
    """GetAgent, over and over."""
    return agents_target(address, token, "GetAgent", pb2.GetAgentRequest(id=agent_id))
