"""The tests' provider: a real HTTP server that speaks the formats of Anthropic and OpenAI, and does what it is told.

    async with ProviderServer() as server:
        server.will(Say(["Hel", "lo"]), Stop())  # the next request gets this
        server.will(Status(429, headers={"retry-after": "0.1"}))  # the one after it, this
        ...  # ask at server.anthropic_url or server.openai_url
        assert server.requests[0].body["model"] == "claude-x"

Every request takes the next script. When there is none, it gets `server.otherwise`: "Hello there." unless it is set.
`otherwise` may be a function of the request, so that an answer can depend on what was asked.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from tests.agent.providers.script import (
    Cut,
    End,
    Raw,
    Say,
    Script,
    Status,
    Step,
    Wait,
    saying,
)
from tests.agent.providers.wire import CompletionsWire, MessagesWire, Wire

WIRES: Mapping[str, type[Wire]] = {"/v1/messages": MessagesWire, "/v1/chat/completions": CompletionsWire}


@dataclass(eq=False)
class Received:
    """A request, and what became of it."""

    path: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: dict[str, Any]
    connection: int
    """Numbers the connections, to see that they are used again."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first step of the script is done."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the client closed the connection before the answer had ended."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is done with it, left or not."""


class ProviderServer:
    """An HTTP/1.1 server on a free port of this machine."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        """All requests so far."""
        self.otherwise: Script | Callable[[Received], Script] = saying("Hello", " there.")
        """What a request gets when there is no script for it."""
        self._scripts: deque[Script] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrivals = asyncio.Condition()
        self._connections = 0
        self._server: asyncio.Server | None = None

    def will(self, *steps: Step) -> None:
        """Answer like this to the first request that there is no script for yet."""
        self._scripts.append(steps)

    async def received(self, index: int = 0) -> Received:
        """The request of this index, as soon as it is there."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: len(self.requests) > index)
        return self.requests[index]

    @property
    def address(self) -> str:
        """`host:port`."""
        assert self._server is not None, "not started"
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @property
    def anthropic_url(self) -> str:
        """The `base_url` for Anthropic's format."""
        return f"http://{self.address}"

    @property
    def openai_url(self) -> str:
        """The `base_url` for OpenAI's format."""
        return f"http://{self.address}/v1"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        task = asyncio.create_task(self._serve(_Connection(reader, writer, self._connections)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: "_Connection") -> None:
        try:
            while (request := await connection.request()) is not None:
                self.requests.append(request)
                async with self._arrivals:
                    self._arrivals.notify_all()
                if not await self._answer(request, connection):
                    return
        except ConnectionError:
            pass  # the client is gone
        finally:
            connection.cut()

    async def _answer(self, request: Received, connection: "_Connection") -> bool:
        """Whether the connection can take another request."""
        script = self._scripts.popleft() if self._scripts else self.otherwise
        steps = script(request) if callable(script) else script
        playing = asyncio.create_task(_play(steps, request, connection))
        leaving = asyncio.create_task(connection.gone())
        try:
            await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if playing.done():
                return playing.result()
            request.left.set()
            return False
        finally:
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)
            request.ended.set()


async def _play(steps: Script, request: Received, connection: "_Connection") -> bool:
    wire_kind = WIRES.get(request.path)
    if wire_kind is None:
        await connection.error(Status(404, f"no {request.path} here"), {"error": {"message": "not found"}})
        return True
    if steps and isinstance(steps[0], Status):
        await connection.error(steps[0], wire_kind.status(steps[0]))
        return True
    if steps and isinstance(steps[0], Cut):
        return False
    if steps and isinstance(steps[0], Wait):
        await asyncio.sleep(steps[0].seconds)
        steps = steps[1:]
    await connection.begin()
    async for data in _body(steps, wire_kind(steps, str(request.body.get("model")))):
        if data is None:
            return False
        await connection.chunk(data)
        request.begun.set()
    await connection.end()
    return True


async def _body(steps: Script, wire: Wire) -> AsyncIterator[bytes | None]:
    """The parts of the body; None where the connection breaks."""
    if not steps or not isinstance(steps[0], Raw):
        for data in wire.begin():
            yield data
    for step in steps:
        match step:
            case Say(parts=parts, pace=pace):
                for part in parts:
                    await asyncio.sleep(pace)
                    for data in wire.text(part):
                        yield data
            case Wait(seconds=seconds):
                await asyncio.sleep(seconds)
            case Cut():
                yield None
            case End():
                return
            case _:
                for data in wire.events(step):
                    yield data


class _Connection:
    """A connection of a client, as far as HTTP/1.1 is needed here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self._reader = reader
        self._writer = writer
        self._number = number
        self._ahead = b""  # what came while an answer was under way

    async def request(self) -> Received | None:
        """The next request; None when there are no more."""
        while b"\r\n\r\n" not in self._ahead:
            if not await self._read():
                return None
        head, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        while len(self._ahead) < size:
            if not await self._read():
                return None
        body, self._ahead = self._ahead[:size], self._ahead[size:]
        return Received(first.split()[1], headers, json.loads(body or b"{}"), self._number)

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        with suppress(ConnectionError):
            while await self._read():
                pass

    async def begin(self) -> None:
        await self._head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})

    async def chunk(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def error(self, status: Status, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        await self._head(status.code, headers | dict(status.headers))
        self._writer.write(body)
        await self._writer.drain()

    def cut(self) -> None:
        self._writer.transport.abort()

    async def _head(self, code: int, headers: Mapping[str, str]) -> None:
        phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "Overloaded"
        lines = [f"HTTP/1.1 {code} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        await self._writer.drain()

    async def _read(self) -> bool:
        data = await self._reader.read(65_536)
        self._ahead += data
        return bool(data)
