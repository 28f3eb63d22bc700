"""Tools of MCP servers, reached by streamable HTTP (https://modelcontextprotocol.io/specification)."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from services.agent.providers import ToolSpec
from services.agent.tools import ToolAnswer, ToolBox, ToolsUnavailable
from services.agent.tools.names import EVERY_TOOL, split_name, unknown_servers
from services.kit.settings import SettingUnusable

if TYPE_CHECKING:
    from services.agent.tools.session import Session, Tool

CLOSE_SECONDS = 1.0
MAX_SPEC_NAME = 64

NewSession: TypeAlias = "Callable[[], Session]"


class McpTools:
    """The tools of these servers, by name and URL. Raises SettingUnusable if there are some but the SDK is missing.

    A server gets `connect_seconds` to open a session and list its tools, and a tool `call_seconds` to answer.
    """

    def __init__(self, servers: Mapping[str, str], *, call_seconds: float, connect_seconds: float = 10.0) -> None:
        if servers and find_spec("mcp") is None:
            raise SettingUnusable("PARLEY_AGENT_MCP_SERVERS needs the package `mcp`: install `parley[tools]`")
        self._servers = dict(servers)
        self._call_seconds = call_seconds
        self._connect_seconds = connect_seconds

    @property
    def servers(self) -> frozenset[str]:
        """The names of the servers that there are."""
        return frozenset(self._servers)

    @asynccontextmanager
    async def open(self, names: Sequence[str]) -> AsyncIterator[ToolBox]:
        """The tools of these names, with one session a server for the time of the block. Raises ToolsUnavailable.

        Leaving the block takes at most CLOSE_SECONDS.
        """
        if unknown := unknown_servers(names, self._servers):
            raise ToolsUnavailable(f"There is no tool server {unknown[0]}.")
        make = await asyncio.to_thread(self._session_maker) if names else None
        servers: dict[str, _Server] = {}
        try:
            if make:
                servers.update({server: _Server(make(server)) for server in _servers_of(names)})
            found = {name: await server.list_tools() for name, server in servers.items()}
            yield _Box(servers, _chosen(names, found))
        finally:
            await _close(servers.values())

    def _session_maker(self) -> Callable[[str], NewSession]:
        # In a thread, because that takes a second: the SDK is an extra, and imported when it is first needed.
        from services.agent.tools.session import Limits, Session  # noqa: PLC0415  # as the line above says

        limits = Limits(call=self._call_seconds, connect=self._connect_seconds)
        return lambda server: lambda: Session(server, self._servers[server], limits)


class _Server:
    """A server in one execution. When its session is not usable any more, the next use opens another."""

    def __init__(self, new_session: NewSession) -> None:
        self._new_session = new_session
        self._session = new_session()
        self._before: list[Session] = []
        self._opening = asyncio.Lock()

    async def list_tools(self) -> Sequence["Tool"]:
        """The tools that it has. Raises ToolsUnavailable."""
        return await self._session.opened()

    async def use(self, tool: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """What the tool answers."""
        async with self._opening:
            if not self._session.is_usable:
                self._before = [session for session in (*self._before, self._session) if session.tasks]
                self._session = self._new_session()
                try:
                    await self._session.opened()
                except ToolsUnavailable as unavailable:
                    return ToolAnswer(str(unavailable), is_error=True)
        return await self._session.call(tool, arguments)

    def end(self) -> set[asyncio.Task[Any]]:
        """Begin to close the sessions; returns what is still at work for them."""
        sessions = (self._session, *self._before)
        for session in sessions:
            session.end()
        return set().union(*(session.tasks for session in sessions))


async def _close(servers: Collection[_Server]) -> None:
    tasks = {task for server in servers for task in server.end()}
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class _Box:
    """The tools that an agent has chosen."""

    def __init__(self, servers: Mapping[str, _Server], chosen: Sequence[tuple[str, "Tool"]]) -> None:
        self._servers = servers
        self._tools: dict[str, tuple[str, Tool]] = {}
        for server, tool in chosen:
            self._tools[_spec_name(server, tool.name, self._tools)] = (server, tool)

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """What the model is told of them."""
        return [ToolSpec(name, tool.description, tool.input_schema) for name, (_, tool) in self._tools.items()]

    async def use(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Use a tool by the name in its spec."""
        if name not in self._tools:
            return ToolAnswer(f"There is no tool {name[:MAX_SPEC_NAME]}.", is_error=True)
        server, tool = self._tools[name]
        return await self._servers[server].use(tool.name, arguments)


def _servers_of(names: Sequence[str]) -> Sequence[str]:
    return tuple(dict.fromkeys(split_name(name)[0] for name in names))


def _chosen(names: Sequence[str], found: Mapping[str, Sequence["Tool"]]) -> Sequence[tuple[str, "Tool"]]:
    """Server and tool for these names, each once, in the order of the names. Raises ToolsUnavailable."""
    chosen: dict[tuple[str, str], Tool] = {}
    for name in names:
        server, wanted = split_name(name)
        having = [tool for tool in found[server] if wanted in (EVERY_TOOL, tool.name)]
        if not having and wanted != EVERY_TOOL:
            raise ToolsUnavailable(f"The tool server {server} has no tool {wanted}.")
        chosen.update({(server, tool.name): tool for tool in having})
    return [(server, tool) for (server, _), tool in chosen.items()]


def _spec_name(server: str, tool: str, taken: Collection[str]) -> str:
    """A name for the model that is not taken: models know fewer characters, and no dot."""
    wanted = re.sub(r"[^a-zA-Z0-9_-]", "_", f"{server}__{tool}")
    name, number = wanted[:MAX_SPEC_NAME], 1
    while name in taken:
        number += 1
        suffix = f"_{number}"
        name = wanted[: MAX_SPEC_NAME - len(suffix)] + suffix
    return name
