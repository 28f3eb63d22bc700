"""Ways to see that a process is ready."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

_PATH = b"/grpc.health.v1.Health/Check"
_SERVING = bytes((0, 0, 0, 0, 2, 0x08, 1))  # a gRPC message of 2 bytes: field 1 (status), a varint, SERVING
_DATA, _HEADERS, _SETTINGS = 0, 1, 4  # types of frames, RFC 9113 section 6
_END_STREAM, _END_HEADERS = 0x1, 0x4


def file_exists(path: Path) -> Callable[[], Awaitable[bool]]:
    """Ready when the process has created the file, which must be removed before it starts."""

    async def ready() -> bool:
        return path.exists()  # noqa: ASYNC240 - a local disk, and nobody waits

    return ready


def serving(host: str, port: int) -> Callable[[], Awaitable[bool]]:
    """Ready when the server's own gRPC health check says SERVING."""

    async def ready() -> bool:
        try:
            async with asyncio.timeout(2):
                return await _check(host, port)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False

    return ready


async def _check(host: str, port: int) -> bool:
    """Make one call of `Health.Check` over plain HTTP/2.

    Written out, because grpc in this process would cost 30 MB and must not be in one that starts others.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, stream=0, payload=b""))
        writer.write(_frame(_HEADERS, _END_HEADERS, stream=1, payload=_headers()))
        writer.write(_frame(_DATA, _END_STREAM, stream=1, payload=bytes(5)))  # an empty request
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if stream == 1 and kind == _DATA:
                return payload == _SERVING
            if stream == 1 and flags & _END_STREAM:
                return False  # a status without an answer
    finally:
        writer.close()


def _frame(kind: int, flags: int, *, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _headers() -> bytes:
    """The request's headers: numbers are entries of the static table of RFC 7541, appendix A."""
    return b"".join(
        (
            bytes((0x80 | 3, 0x80 | 6)),  # :method POST, :scheme http
            bytes((4, len(_PATH))) + _PATH,  # :path
            bytes((1, 9)) + b"localhost",  # :authority
            bytes((0x0F, 31 - 15, 16)) + b"application/grpc",  # content-type
            bytes((0, 2)) + b"te" + bytes((8,)) + b"trailers",
        )
    )
