"""A real MCP server with tools of every kind, in a thread of the tests: its connections can be cut and counted.

It has an event loop of its own, so that all tasks in the tests' loop are of the client's side.
"""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ListToolsResult,
    TextContent,
    TextResourceContents,
    Tool,
)

from tests.support import DEADLINE, until

PNG = b"\x89PNG\r\n\x1a\n" + bytes(1226)
PAGE = 3
OBJECT = {"type": "object"}

Receive = Callable[[], Awaitable[Any]]


class ToolServer:
    """The server while it runs, and what can be done to it, from any thread.

    It speaks the newest protocol, or the one before: with a handshake and sessions. It answers with event streams, or
    with one JSON each.
    """

    def __init__(self, mcp: Any, *, old_protocol: bool = False, as_json: bool = False) -> None:
        self.hanging: set[str] = set()
        """What calls of `hangs` that are at work were named by their caller."""
        self.listens = True
        self.ignored = 0
        self.notices_leaving = old_protocol or not as_json
        self._app = mcp.streamable_http_app(json_response=as_json)
        self._sessions = mcp.session_manager
        self._knows_discovery = not old_protocol
        config = uvicorn.Config(
            self._serve,
            port=0,
            log_level="warning",
            lifespan="off",
            ws="none",
            interface="asgi3",
            timeout_graceful_shutdown=1,
        )
        self._uvicorn = uvicorn.Server(config)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.url = ""

    @property
    def connections(self) -> int:
        return len(self._uvicorn.server_state.connections)

    def cut(self) -> None:
        """Break every connection off."""
        self._in_its_loop(self._cut)

    def close(self) -> None:
        """Be there for nobody any more."""

        def close() -> None:
            for listening in self._uvicorn.servers:
                listening.close()
            self._cut()

        self._in_its_loop(close)

    @contextmanager
    def running(self) -> Iterator["ToolServer"]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="MCP server")
        thread.start()
        try:
            assert self._ready.wait(DEADLINE)
            yield self
        finally:
            self.cut()
            self._uvicorn.should_exit = True
            thread.join()

    def _in_its_loop(self, action: Callable[[], None]) -> None:
        assert self._loop
        self._loop.call_soon_threadsafe(action)

    def _cut(self) -> None:
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._sessions.run():
            serving = asyncio.create_task(self._uvicorn.serve())
            await until(lambda: self._uvicorn.started)
            host, port = self._uvicorn.servers[0].sockets[0].getsockname()
            self.url = f"http://{host}:{port}/mcp"
            self._ready.set()
            await serving

    async def _serve(self, scope: Any, receive: Receive, send: Any) -> None:
        if not self.listens:
            self.ignored += 1
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        version = dict(scope["headers"]).get(b"mcp-protocol-version", b"")
        if not self._knows_discovery and version >= b"2026":
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send)


def tool_server(**options: bool) -> ToolServer:
    mcp = MCPServer("tests")
    server = ToolServer(mcp, **options)

    @mcp.tool(description="Adds two integers.", structured_output=False)
    async def add(a: int, b: int) -> str:
        return str(a + b)

    @mcp.tool(structured_output=False)
    async def upper(text: str) -> str:
        return text.upper()

    @mcp.tool(structured_output=False)
    async def fails(why: str) -> str:
        raise ToolError(why)

    @mcp.tool(structured_output=False)
    async def breaks() -> str:
        raise ZeroDivisionError

    @mcp.tool(structured_output=False)
    async def refuses() -> str:
        raise MCPError(-32001, "not today")

    @mcp.tool(structured_output=False)
    async def hangs(name: str) -> str:
        server.hanging.add(name)
        try:
            await asyncio.Event().wait()
        finally:
            server.hanging.remove(name)
        raise AssertionError

    @mcp.tool()
    async def structured() -> CallToolResult:
        return CallToolResult(content=[], structured_content={"town": "Zürich", "degrees": 21.5})

    @mcp.tool(structured_output=False)
    async def big(size: int) -> str:
        return "ä" * (size // 2)

    @mcp.tool(structured_output=False)
    async def image() -> list[Any]:
        return ["A picture:", Image(data=PNG, format="png"), "of nothing"]

    @mcp.tool(structured_output=False)
    async def resources() -> CallToolResult:
        blob = base64.b64encode(bytes(100)).decode()
        return CallToolResult(
            content=[
                EmbeddedResource(resource=TextResourceContents(uri="note://1", text="a note")),
                EmbeddedResource(resource=BlobResourceContents(uri="blob://1", mime_type="application/pdf", blob=blob)),
            ]
        )

    @mcp.tool(name="files.read-all", structured_output=False)
    async def read_all() -> str:
        return "everything"

    return server


def paged_server(names: list[str]) -> ToolServer:
    """A server that lists many tools, a few at a time; each answers with its name, although `liar` promises more."""

    async def list_tools(_context: Any, params: Any) -> ListToolsResult:
        start = int(params.cursor) if params and params.cursor else 0
        page = [Tool(name=name, input_schema=OBJECT) for name in names[start : start + PAGE]]
        for tool in page:
            tool.output_schema = OBJECT if tool.name == "liar" else None
        return ListToolsResult(tools=page, next_cursor=str(start + PAGE) if start + PAGE < len(names) else None)

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        return CallToolResult(content=[TextContent(text=params.name)])

    return ToolServer(Server("pages", on_list_tools=list_tools, on_call_tool=call_tool))


def refusing_server(why: str) -> ToolServer:
    """A server that does not tell which tools it has, and says why."""

    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        raise MCPError(-32000, why)

    return ToolServer(Server("refusing", on_list_tools=list_tools))


class SilentServer:
    """What takes connections and says nothing."""

    def __init__(self) -> None:
        self.url = ""
        self.connections: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["SilentServer"]:
        async with await asyncio.start_server(self._hold, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            self.url = f"http://{host}:{port}/mcp"
            yield self
            for connection in self.connections:
                connection.close()

    async def _hold(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
