"""Agents of the caller's: created, listed, found."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC
from uuid import UUID

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from services.cli.client.caller import Caller
from services.cli.client.ending import Failed
from services.cli.client.writing import printable

PAGE = 100
TABLE_WIDTH = 160


async def list_agents(
    caller: Caller, *, written_filter: str, order_by: str, limit: int | None
) -> AsyncIterator[pb2.Agent]:
    """The caller's agents, as many as there are or as are wanted, page by page. Raises Failed."""
    agents = AgentServiceStub(caller.channel)
    request = pb2.ListAgentsRequest(filter=written_filter, order_by=order_by)
    left = limit
    while left is None or left > 0:
        request.page_size = PAGE if left is None else min(PAGE, left)
        page = await caller.call(agents.ListAgents, request)
        for agent in page.agents:
            yield agent
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
        left = None if left is None else left - len(page.agents)


async def find_agent(caller: Caller, named: str) -> str:
    """The id of the caller's agent with this id, or with this name if no other has it. Raises Failed."""
    try:
        return str(UUID(named))
    except ValueError:
        pass
    quoted = named.replace("\\", "\\\\").replace('"', '\\"')
    found = [agent async for agent in list_agents(caller, written_filter=f'name = "{quoted}"', order_by="", limit=None)]
    # Names are compared without regard to upper and lower case; somebody who writes one out means that one.
    found = [agent for agent in found if agent.name == named] or found
    if not found:
        raise Failed(f"there is no agent named {named}")
    if len(found) > 1:
        raise Failed(f"{len(found)} agents are named {named}: give the id of one", *(agent.id for agent in found))
    return found[0].id


def print_table(agents: Iterable[pb2.Agent]) -> None:
    """Agents for people to read."""
    table = Table("id", "name", "model", "active", "revision", "changed", box=None, pad_edge=False)
    for agent in agents:
        changed = agent.update_time.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M")
        cells = (agent.id, agent.name, agent.model_name, "yes" if agent.is_active else "no", str(agent.revision))
        table.add_row(*(Text(printable(cell)) for cell in cells), changed)
    # As wide as it is, whatever the terminal: an id is to be copied.
    Console(highlight=False, width=TABLE_WIDTH).print(table)
