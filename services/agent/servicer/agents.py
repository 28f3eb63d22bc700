"""`parley.agent.v1.AgentService`: protobuf in, one call of the domain, protobuf out."""

from uuid import UUID

from parley.agent.v1 import agent_service_pb2 as pb2
from services.agent.domain.agents import Agents
from services.agent.mapping.agents import to_changes, to_draft, to_message, to_revision
from services.agent.mapping.values import to_uuid
from services.kit.calls import Call
from services.kit.pages import MAX_LIST_BYTES, fitting, read_page, token_behind


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
        list_name = f"agents of {user_id} {request.show_deleted} {request.order_by!r} {request.filter!r}"
        page = await self._agents.list_agents(
            user_id,
            read_page(list_name, request.page_size, request.page_token, request.skip),
            written_filter=request.filter,
            order_by=request.order_by,
            show_deleted=request.show_deleted,
        )
        agents = fitting([to_message(agent) for agent in page.items], MAX_LIST_BYTES)
        return pb2.ListAgentsResponse(
            agents=agents,
            next_page_token=token_behind(list_name, page, len(agents), lambda agent: agent.id),
            total_size=page.total_size,
        )

    async def UpdateAgent(self, request: pb2.UpdateAgentRequest, call: Call) -> pb2.UpdateAgentResponse:
        agent = await self._agents.update_agent(
            call.caller.user_id, UUID(request.id), to_changes(request), request.etag
        )
        return pb2.UpdateAgentResponse(agent=to_message(agent))

    async def DeleteAgent(self, request: pb2.DeleteAgentRequest, call: Call) -> pb2.DeleteAgentResponse:
        agent = await self._agents.delete_agent(call.caller.user_id, UUID(request.id), request.etag)
        return pb2.DeleteAgentResponse(agent=to_message(agent))

    async def UndeleteAgent(self, request: pb2.UndeleteAgentRequest, call: Call) -> pb2.UndeleteAgentResponse:
        agent = await self._agents.undelete_agent(call.caller.user_id, UUID(request.id))
        return pb2.UndeleteAgentResponse(agent=to_message(agent))

    async def ListAgentRevisions(
        self, request: pb2.ListAgentRevisionsRequest, call: Call
    ) -> pb2.ListAgentRevisionsResponse:
        agent_id = UUID(request.id)
        list_name = f"revisions of {agent_id}"
        page = await self._agents.list_agent_revisions(
            call.caller.user_id, agent_id, read_page(list_name, request.page_size, request.page_token, request.skip)
        )
        revisions = fitting([to_revision(revision) for revision in page.items], MAX_LIST_BYTES)
        return pb2.ListAgentRevisionsResponse(
            revisions=revisions,
            next_page_token=token_behind(list_name, page, len(revisions), lambda _: agent_id),
            total_size=page.total_size,
        )

    async def RollbackAgent(self, request: pb2.RollbackAgentRequest, call: Call) -> pb2.RollbackAgentResponse:
        agent = await self._agents.rollback_agent(call.caller.user_id, UUID(request.id), request.revision, request.etag)
        return pb2.RollbackAgentResponse(agent=to_message(agent))
