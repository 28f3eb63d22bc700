"""One session with an MCP server. The only code that knows the SDK; it takes a second to import.

The SDK works in scopes that must be entered and left by one task, and that cancel this task when the connection breaks.
So a task of the session's own holds them, and whoever uses the session waits beside it: he may be cancelled at any
time, and what breaks does not reach him but as an answer.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx2
import structlog
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, CallToolResult, Implementation

from services.agent.tools import ToolAnswer, ToolsUnavailable
from services.agent.tools.results import cut, text_of

log = structlog.get_logger()

MAX_ANSWER_BYTES = 8 * 2**20
MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds."""

    call: float
    connect: float


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a server has."""

    name: str
    description: str
    input_schema: Mapping[str, Any]


class Session:
    """A session that is being opened, or open, or over. Making one begins to open it."""

    def __init__(self, server: str, url: str, limits: Limits) -> None:
        self._server = server
        self._url = url
        self._limits = limits
        self._client: Client | None = None
        self._opened: asyncio.Future[Sequence[Tool]] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._calls: set[asyncio.Task[CallToolResult]] = set()
        self._connect_by = asyncio.get_running_loop().time() + limits.connect
        self._holder = asyncio.create_task(self._hold(), name=f"tools of {server}")
        self._holder.add_done_callback(_forget)

    @property
    def is_usable(self) -> bool:
        """Whether it takes calls. It does not any more when it broke, or a call was given up on."""
        return self._client is not None and not self._over.is_set() and not self._holder.done()

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """What is still at work for it."""
        return {task for task in (self._holder, *self._calls) if not task.done()}

    async def opened(self) -> Sequence[Tool]:
        """Wait until it is open, and return the tools that the server has. Raises ToolsUnavailable."""
        try:
            async with asyncio.timeout_at(self._connect_by):
                await asyncio.wait((self._opened, self._holder), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            why = f"does not answer within {self._limits.connect:g} seconds"
        else:
            if self._opened.done():
                return self._opened.result()
            why = _why_not(self._holder.exception())
        finally:
            if not self._opened.done():
                self.end()
        raise ToolsUnavailable(f"The tool server {self._server} {why}.")

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Call a tool of a session that is usable. It raises nothing but CancelledError, and that at once."""
        assert self._client is not None
        full_name = f"{self._server}.{tool}"
        call = asyncio.create_task(self._client.call_tool(tool, dict(arguments)), name=full_name)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        call.add_done_callback(_forget)
        try:
            await asyncio.wait((call,), timeout=self._limits.call)
        finally:
            if not call.done():
                # The SDK now tells the server, which may not listen: other calls shall not have to wait behind that.
                self.retire()
                call.cancel()
        if not call.done():
            log.warning("tool did not answer", tool=full_name, seconds=self._limits.call)
            return ToolAnswer(f"{full_name} did not answer within {self._limits.call:g} seconds.", is_error=True)
        return self._answer(full_name, call)

    def _answer(self, full_name: str, call: asyncio.Task[CallToolResult]) -> ToolAnswer:
        if call.cancelled():
            return ToolAnswer(f"{full_name} was not waited for.", is_error=True)
        try:
            result = call.result()
        except MCPError as error:
            if error.code in (CONNECTION_CLOSED, INVALID_REQUEST):  # The latter is also said of a forgotten session.
                self.retire()
            log.warning("tool failed", tool=full_name, code=error.code)
            return ToolAnswer(cut(f"{full_name} failed: {error.message}"), is_error=True)
        except Exception as error:  # noqa: BLE001  # the SDK raises its own, pydantic's, httpx2's and RuntimeError
            log.warning("tool gave an unusable answer", tool=full_name, fault=type(error).__qualname__)
            return ToolAnswer(f"{full_name} gave an answer that breaks its own rules.", is_error=True)
        return ToolAnswer(text_of(result), is_error=result.is_error)

    def retire(self) -> None:
        """Take no new calls, and end when the last one has."""
        self._over.set()

    def end(self) -> None:
        """Give up on what is still to come, and end. `tasks` tells when that is done."""
        self.retire()
        for call in self._calls:
            call.cancel()
        if not self._opened.done():
            self._holder.cancel()

    async def _hold(self) -> None:
        async with (
            self._http_client() as http,
            Client(
                streamable_http_client(self._url, http_client=http, max_sse_event_size=MAX_ANSWER_BYTES),
                client_info=Implementation(name="parley", version=version("parley")),
                cache=None,
            ) as client,
        ):
            tools = await _list_tools(client)
            self._client = client
            self._opened.set_result(tools)
            await self._over.wait()
            while self._calls:
                await asyncio.wait(self._calls)

    def _http_client(self) -> httpx2.AsyncClient:
        # Silence is noticed by whoever waits for an answer, first and with better words.
        silence = max(self._limits.call, self._limits.connect) + 5
        return httpx2.AsyncClient(
            timeout=httpx2.Timeout(self._limits.connect, read=silence),
            headers={"accept-encoding": "identity"},  # so that what comes is not larger than what is counted
            event_hooks={"response": [_limit_size]},
        )


class _LimitedStream(httpx2.AsyncByteStream):
    """A body that fails when it is longer than MAX_ANSWER_BYTES."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for data in self._stream:
            size += len(data)
            if size > MAX_ANSWER_BYTES:
                raise httpx2.StreamError(f"more than {MAX_ANSWER_BYTES} bytes")
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _limit_size(response: httpx2.Response) -> None:
    """Bound what an answer takes in memory. Of an event stream, the SDK bounds each event."""
    is_stream = response.headers.get("content-type", "").lower().startswith("text/event-stream")
    if not is_stream and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _LimitedStream(response.stream)


async def _list_tools(client: Client) -> Sequence[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += [Tool(tool.name, tool.description or tool.title or "", tool.input_schema) for tool in page.tools]
        cursor = page.next_cursor
        if not cursor:
            return tools


def _why_not(error: BaseException | None) -> str:
    """Why a session could not be opened. The SDK's task groups raise groups, of one mostly."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError):
        return f"refuses: {error.message[:MAX_REASON]}"
    return f"cannot be reached: {type(error).__name__}"


def _forget(task: asyncio.Task[Any]) -> None:
    """Whoever waited may have gone; then nobody asks how it ended."""
    if not task.cancelled():
        task.exception()
