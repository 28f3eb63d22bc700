"""Files over HTTP/1.1, with as little between the sockets and the bytes as Python allows."""

import asyncio
import hashlib
import json
import re
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.file_orders import Order, Transfer, Way
from benchmarks.load import WrongAnswers

BUFFER_BYTES = 1024 * 1024
_BOUNDARY = b"----parley-benchmarks"
_HEAD = re.compile(rb"HTTP/1.1 (\d+).*?\ncontent-length: (\d+)", re.IGNORECASE | re.DOTALL)


@asynccontextmanager
async def opened(order: Order, content: memoryview) -> AsyncIterator[Transfer]:
    """The order over as many connections as files are in flight, all of which are there when the block begins."""
    connections = [await _Connection.open(order.address) for _ in range(order.in_flight)]
    try:
        yield _Download(order, content, connections) if order.ids else _Upload(order, content, connections)
    finally:
        for connection in connections:
            connection.close()


class _Connection:
    """A connection that is kept alive."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))

    @classmethod
    async def open(cls, address: str) -> "_Connection":
        host, port = address.split(":")
        connected = socket.create_connection((host, int(port)))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setblocking(False)
        return cls(connected)

    def close(self) -> None:
        self._socket.close()

    async def exchange(self, request: bytes | memoryview, into: bytearray | None = None) -> tuple[int, int]:
        """Send a request. Gives the status, and how many bytes the answer's body has, which are added to `into`."""
        await self._loop.sock_sendall(self._socket, request)
        filled = 0
        while (end := bytes(self._buffer[:filled]).find(b"\r\n\r\n")) < 0:
            filled += await self._receive(self._buffer[filled:])
        head = _HEAD.match(bytes(self._buffer[:end]))
        if head is None:
            raise WrongAnswers(f"an answer without its length: {bytes(self._buffer[:end])!r}")
        size, came = int(head[2]), self._buffer[end + 4 : filled]
        received = len(came)
        while True:
            if into is not None:
                into += came
            if received == size:
                return int(head[1]), size
            came = self._buffer[: await self._receive(self._buffer[: size - received])]
            received += len(came)

    async def _receive(self, into: memoryview) -> int:
        received = await self._loop.sock_recv_into(self._socket, into)
        if not received:
            raise WrongAnswers("the server closed the connection before it had answered")
        return received


class _Upload:
    def __init__(self, order: Order, content: memoryview, connections: Sequence[_Connection]) -> None:
        self._connections = connections
        self._sha256 = [hashlib.sha256(content[order.slice_of(number)]).hexdigest() for number in range(order.files)]
        self._requests = [_upload_request(order, number, content) for number in range(order.files)]
        self._answers: list[tuple[int, bytes]] = [(0, b"")] * order.files
        self._checks = order.tells_sha256

    async def run(self) -> None:
        numbers = iter(range(len(self._requests)))
        await _at_once(self._uploads(connection, numbers) for connection in self._connections)

    async def _uploads(self, connection: _Connection, numbers: Iterator[int]) -> None:
        for number in numbers:
            body = bytearray()
            status, _ = await connection.exchange(self._requests[number], body)
            self._answers[number] = status, bytes(body)

    def ids(self) -> list[str]:
        return [self._id(*answer, sha256) for answer, sha256 in zip(self._answers, self._sha256, strict=True)]

    def _id(self, status: int, body: bytes, sha256: str) -> str:
        if status != 201:
            raise WrongAnswers(f"an upload was answered with {status}: {body[:200]!r}")
        if not self._checks:
            return body.decode()
        file = json.loads(body)
        if file["sha256"] != sha256:
            raise WrongAnswers("an upload was answered with another SHA-256")
        return str(file["id"])


class _Download:
    def __init__(self, order: Order, content: memoryview, connections: Sequence[_Connection]) -> None:
        self._order = order
        self._content = content
        self._connections = connections
        self._requests = [
            _head(order, f"GET /files/{file_id}{order.download_query}") + b"\r\n" for file_id in order.ids
        ]
        self._answers: list[tuple[int, int]] = [(0, 0)] * order.files
        self._bodies: list[bytearray | None] = [bytearray() if order.whole else None for _ in order.ids]

    async def run(self) -> None:
        numbers = iter(range(len(self._requests)))
        await _at_once(self._downloads(connection, numbers) for connection in self._connections)

    async def _downloads(self, connection: _Connection, numbers: Iterator[int]) -> None:
        for number in numbers:
            self._answers[number] = await connection.exchange(self._requests[number], self._bodies[number])

    def ids(self) -> list[str]:
        for number, (answer, body) in enumerate(zip(self._answers, self._bodies, strict=True)):
            if answer != (200, self._order.file_bytes):
                raise WrongAnswers(f"a download was answered with status and size {answer}")
            if body is not None and body != self._content[self._order.slice_of(number)]:
                raise WrongAnswers("a download was answered with other bytes than were uploaded")
        return list(self._order.ids)


async def _at_once(each: Iterable[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in each:
            group.create_task(work)


def _upload_request(order: Order, number: int, content: memoryview) -> bytes:
    data = content[order.slice_of(number)]
    if order.way is Way.RAW:
        head = _head(order, f"PUT /files?filename={number}.bin")
        return b"%scontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n%s" % (head, len(data), data)
    begin = (
        b'--%s\r\ncontent-disposition: form-data; name="file"; filename="%d.bin"\r\n'
        b"content-type: application/octet-stream\r\n\r\n" % (_BOUNDARY, number)
    )
    end = b"\r\n--%s--\r\n" % _BOUNDARY
    size = len(begin) + len(data) + len(end)
    head = _head(order, "POST /files")
    kind = b"content-type: multipart/form-data; boundary=%s\r\ncontent-length: %d\r\n\r\n" % (_BOUNDARY, size)
    return b"".join((head, kind, begin, data, end))


def _head(order: Order, what: str) -> bytes:
    return f"{what} HTTP/1.1\r\nhost: {order.address}\r\nauthorization: Bearer {order.token}\r\n".encode()
