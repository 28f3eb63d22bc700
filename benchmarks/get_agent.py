"""GetAgent, as a real call through the stubs and as something to put under load."""

import asyncio

import grpc

from benchmarks.load import Target, grpc_frame
from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub

CALL_SECONDS = 20.0


def bearer(token: str) -> str:
    """The value of the header `authorization`."""
    return f"Bearer {token}"


def get_agent(address: str, token: str, agent_id: str) -> pb2.GetAgentResponse:
    """The answer to one real call. Raises grpc.RpcError."""

    async def call() -> pb2.GetAgentResponse:
        async with grpc.aio.insecure_channel(address) as channel:
            return await AgentServiceStub(channel).GetAgent(
                pb2.GetAgentRequest(id=agent_id),
                metadata=(("authorization", bearer(token)),),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
            )

    return asyncio.run(call())


def get_agent_target(address: str, token: str, agent_id: str) -> Target:
    """The same call over and over; what a right answer looks like is found out by making it once."""
    answer = get_agent(address, token, agent_id)
    return Target(
        url=f"http://{address}/parley.agent.v1.AgentService/GetAgent",
        headers={"content-type": "application/grpc", "te": "trailers", "authorization": bearer(token)},
        answer_bytes=len(grpc_frame(answer.SerializeToString())),
        grpc_message=pb2.GetAgentRequest(id=agent_id).SerializeToString(),
    )
