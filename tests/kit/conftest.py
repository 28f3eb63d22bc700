"""A service with hand-written behaviour around the real wrapper, server and client: the kit alone is under test."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.calls import Registration
from services.kit.identity import Identity, Refusal
from services.kit.revocations import RevokedSessions
from services.kit.server import Service, running
from services.kit.settings import ServiceSettings
from tests.support import Metadata, TestKeys, bearer, identity_of

FILE_SERVICE = pb2.DESCRIPTOR.services_by_name["FileService"]
# One method of each kind.
KINDS = ("GetFile", "DownloadFile", "UploadFile", "UploadFiles")
FILE_ID = "0198c0de-0000-7000-8000-000000000001"


async def _get_file(request: pb2.GetFileRequest, _call: Any) -> pb2.GetFileResponse:
    return pb2.GetFileResponse(file=pb2.File(id=request.id))


async def _download(request: pb2.DownloadFileRequest, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
    yield pb2.DownloadFileResponse(file=pb2.File(id=request.id))


async def _upload(requests: Any, _call: Any) -> pb2.UploadFileResponse:
    size = 0
    async for request in requests:
        size += len(request.chunk.data)
    return pb2.UploadFileResponse(file=pb2.File(size_bytes=size))


async def _upload_many(stream: Any, _call: Any) -> None:
    async for request in stream.requests:
        await stream.send(pb2.UploadFilesResponse(key=request.key))


async def _unused(_request: Any, _call: Any) -> None:
    raise AssertionError("not called here")


def file_servicer(**behaviour: Callable[..., Any]) -> SimpleNamespace:
    """A servicer of FileService that echoes, except for the methods given."""
    methods: dict[str, Callable[..., Any]] = dict.fromkeys(FILE_SERVICE.methods_by_name, _unused)
    methods |= {"GetFile": _get_file, "DownloadFile": _download, "UploadFile": _upload, "UploadFiles": _upload_many}
    return SimpleNamespace(**(methods | behaviour))


def service_of(
    keys: Any,
    *,
    identity: Identity | None = None,
    is_ready: Callable[[], bool] = lambda: True,
    **behaviour: Callable[..., Any],
) -> Service:
    """That servicer as a service whose tokens these keys verify."""
    return Service(
        name="file",
        registrations=[Registration(FILE_SERVICE, file_servicer(**behaviour), followers=frozenset({"DownloadFile"}))],
        identity=identity or identity_of(keys),
        is_ready=is_ready,
    )


def service_settings(**values: Any) -> ServiceSettings:
    """Settings of a service that uses no database."""
    defaults: dict[str, Any] = {"database_url": "postgresql://nowhere/none", "drain_seconds": 2.0}
    return ServiceSettings(**(defaults | values))


Start = Callable[..., Awaitable[grpc.aio.Channel]]


@pytest.fixture
async def start(keys: TestKeys, revoked: RevokedSessions, refusals: list[Refusal]) -> AsyncIterator[Start]:
    """Servers of the methods and with the settings that a test names."""
    async with AsyncExitStack() as stack:

        async def serve_methods(**given: Any) -> grpc.aio.Channel:
            behaviour = {name: given.pop(name) for name in list(given) if name[0].isupper() or name == "is_ready"}
            identity = identity_of(keys, revoked=revoked, refusals=refusals)
            service = service_of(keys, identity=identity, **behaviour)
            address = await stack.enter_async_context(running(service, service_settings(**given), port=0))
            return await stack.enter_async_context(connect(address))

        yield serve_methods


def connect(address: str) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


@pytest.fixture
def token(keys: TestKeys) -> Metadata:
    """Metadata with a good access token."""
    return bearer(keys.token(uuid4()))


HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def http2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of RFC 9113 §4.1, for clients that do what no gRPC library would."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


async def read_http2_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """The next frame: its type, flags, stream and payload."""
    length, kind = struct.unpack(">IB", b"\0" + await reader.readexactly(4))
    flags, stream = struct.unpack(">BI", await reader.readexactly(5))
    return kind, flags, stream, await reader.readexactly(length)


def started(key: str = "") -> Any:
    """The first message of an upload: of UploadFiles if it has a key, of UploadFile otherwise."""
    start = pb2.UploadStart(filename="a.txt")
    return pb2.UploadFilesRequest(key=key, start=start) if key else pb2.UploadFileRequest(start=start)


async def call_of_kind(channel: grpc.aio.Channel, name: str, metadata: Metadata | None = None) -> Any:
    """Make a whole call of one of KINDS, as a client would, and give its last response."""
    stub = pb2_grpc.FileServiceStub(channel)
    if name == "GetFile":
        return await stub.GetFile(pb2.GetFileRequest(id=FILE_ID), metadata=metadata, timeout=10)
    if name == "DownloadFile":
        responses = [
            response
            async for response in stub.DownloadFile(pb2.DownloadFileRequest(id=FILE_ID), metadata=metadata, timeout=10)
        ]
        return responses[-1]
    if name == "UploadFile":
        return await stub.UploadFile(iter([started()]), metadata=metadata, timeout=10)
    answers = [answer async for answer in stub.UploadFiles(iter([started("a")]), metadata=metadata, timeout=10)]
    return answers[-1]
