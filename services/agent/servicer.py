"""`parley.agent.v1.AgentService`: protobuf in, one call of the domain, protobuf out."""

from uuid import UUID

from parley.agent.v1 import agent_service_pb2 as pb2
from services.agent.domain.agents import Agents
from services.agent.mapping import to_changes, to_draft, to_message, to_uuid
from services.kit.calls import Call
from services.kit.pages import fitting, next_page_token, read_page

# A gRPC client takes 4 MiB by default, and a hundred agents can have far more.
MAX_LIST_BYTES = 3 * 1024 * 1024


class AgentServicer:
    """The agents of the caller."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def CreateAgent(self, request: pb2.CreateAgentRequest, call: Call) -> pb2.CreateAgentResponse:
        agent = await self._agents.create_agent(call.caller.user_id, to_draft(request), to_uuid(request.request_id))
        return pb2.CreateAgentResponse(agent=to_message(agent))

    async def GetAgent(self, request: pb2.GetAgentRequest, call: Call) -> pb2.GetAgentResponse:
        agent = await self._agents.get_agent(call.caller.user_id, UUID(request.id))
        return pb2.GetAgentResponse(agent=to_message(agent))

    async def ListAgents(self, request: pb2.ListAgentsRequest, call: Call) -> pb2.ListAgentsResponse:
        user_id = call.caller.user_id
        list_name = f"agents of {user_id}"
        page = await self._agents.list_agents(
            user_id, read_page(list_name, request.page_size, request.page_token, request.skip)
        )
        agents = fitting([to_message(agent) for agent in page.items], MAX_LIST_BYTES)
        next_after = page.next_after if len(agents) == len(page.items) else UUID(agents[-1].id)
        return pb2.ListAgentsResponse(
            agents=agents, next_page_token=next_page_token(list_name, next_after), total_size=page.total_size
        )

    async def UpdateAgent(self, request: pb2.UpdateAgentRequest, call: Call) -> pb2.UpdateAgentResponse:
        agent = await self._agents.update_agent(
            call.caller.user_id, UUID(request.id), to_changes(request), request.etag
        )
        return pb2.UpdateAgentResponse(agent=to_message(agent))

    async def DeleteAgent(self, request: pb2.DeleteAgentRequest, call: Call) -> pb2.DeleteAgentResponse:
        await self._agents.delete_agent(call.caller.user_id, UUID(request.id), request.etag)
        return pb2.DeleteAgentResponse()
