"""A real server of FileService that does to transfers what no file service does when it is asked to."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from parley.file.v1 import file_service_pb2 as pb2
from services.file.errors import FileNotFound, UploadNotFound
from services.kit.errors import DomainError
from services.kit.ids import uuid7
from services.kit.status import code_of, to_rpc_status, to_stream_status

SERVICE = "parley.file.v1.FileService"
PART = 256 * 1024
CHUNK = 64 * 1024
DRAIN_SECONDS = 0.3


@dataclass
class Fault:
    """What becomes of one stream once so many bytes have gone through it; of none of its own, the stream goes on."""

    after: int = 0
    failure: DomainError | None = None
    hold: bool = False
    """Whether it stands still until it is let go on."""
    in_band: bool = False
    damaged: bool = False
    wrong_trailer: bool = False
    without_trailer: bool = False
    is_reached: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def meet(self, call: Any, came: int) -> None:
        """So many bytes have gone through the stream of a call."""
        if came < self.after:
            return
        if self.hold:
            self.is_reached.set()
            await self.goes_on.wait()
        if self.failure is not None and not self.in_band:
            await _fail(call, self.failure)


@dataclass
class Begun:
    start: pb2.UploadStart
    kept: bytearray = field(default_factory=bytearray)
    file: pb2.File | None = None


@dataclass
class ScriptedFiles:
    """Files in memory. Each stream meets the next fault, as long as there is one."""

    faults: list[Fault] = field(default_factory=list)
    idle_seconds: float = 30.0
    part: int = PART
    wrong_sha256: bool = False
    uploads: dict[str, Begun] = field(default_factory=dict)
    files: dict[str, tuple[pb2.File, bytes]] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    expired: set[str] = field(default_factory=set)
    """By `request_id`."""
    received: int = 0
    """Bytes that came, again or for the first time."""
    asked_for: list[int] = field(default_factory=list)
    """Where downloads began."""
    address: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["ScriptedFiles"]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, self._handlers())])
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def add(self, data: bytes, filename: str = "data.bin") -> str:
        """A stored file; its id."""
        sha256 = hashlib.sha256(data).digest() if not self.wrong_sha256 else bytes(32)
        file = pb2.File(id=str(uuid7()), filename=filename, size_bytes=len(data), sha256=sha256)
        self.files[file.id] = (file, data)
        return str(file.id)

    def stored(self) -> list[bytes]:
        return [data for _, data in self.files.values()]

    def _handlers(self) -> dict[str, Any]:
        one, down, both = (
            grpc.unary_unary_rpc_method_handler,
            grpc.unary_stream_rpc_method_handler,
            grpc.stream_stream_rpc_method_handler,
        )
        kinds: dict[str, tuple[Any, Any, Any]] = {
            "GetUploadLimits": (one, self._limits, pb2.GetUploadLimitsRequest),
            "CreateUpload": (one, self._create, pb2.CreateUploadRequest),
            "CancelUpload": (one, self._cancel, pb2.CancelUploadRequest),
            "GetFile": (one, self._get_file, pb2.GetFileRequest),
            "UploadFiles": (both, self._upload, pb2.UploadFilesRequest),
            "DownloadFile": (down, self._download, pb2.DownloadFileRequest),
        }
        return {
            name: kind(method, request_deserializer=request.FromString, response_serializer=_serialized)
            for name, (kind, method, request) in kinds.items()
        }

    async def _limits(self, _request: Any, _call: Any) -> pb2.GetUploadLimitsResponse:
        idle = Duration()
        idle.FromMilliseconds(round(self.idle_seconds * 1000))
        return pb2.GetUploadLimitsResponse(idle_timeout=idle)

    async def _create(self, request: Any, call: Any) -> pb2.CreateUploadResponse:
        if request.start.request_id in self.expired:
            await _fail(call, UploadNotFound())
        id_, begun = next(
            ((id_, one) for id_, one in self.uploads.items() if one.start.request_id == request.start.request_id),
            (str(uuid7()), Begun(request.start)),
        )
        self.uploads[id_] = begun
        file_id = begun.file.id if begun.file else ""
        return pb2.CreateUploadResponse(
            upload=pb2.Upload(id=id_, persisted_size=len(begun.kept), file_id=file_id, filename=begun.start.filename)
        )

    async def _cancel(self, request: Any, _call: Any) -> pb2.CancelUploadResponse:
        self.cancelled.append(request.id)
        del self.uploads[request.id]
        return pb2.CancelUploadResponse()

    async def _get_file(self, request: Any, call: Any) -> pb2.GetFileResponse:
        if request.id not in self.files:
            await _fail(call, FileNotFound())
        return pb2.GetFileResponse(file=self.files[request.id][0])

    async def _upload(self, requests: Any, call: Any) -> None:
        self.tokens.append(dict(call.invocation_metadata())["authorization"])
        fault = self.faults.pop(0) if self.faults else Fault()
        id_, begun, data = "", Begun(pb2.UploadStart()), bytearray()
        came = 0
        async for request in requests:
            if fault.failure is not None and not fault.in_band and came >= fault.after:
                await _drain(requests)
            await fault.meet(call, came)
            if fault.in_band and fault.failure is not None and came >= fault.after:
                rejected = to_stream_status(fault.failure)
                await call.write(pb2.UploadFilesResponse(key=request.key, rejected=rejected))
                return
            match request.WhichOneof("step"):
                case "resume":
                    id_ = request.resume.upload_id
                    begun = self.uploads[id_]
                    data = bytearray(begun.kept)
                    await self._ack(call, request.key, id_, begun)
                case "chunk":
                    chunk = request.chunk
                    assert chunk.offset == len(data)
                    assert chunk.crc32c == google_crc32c.value(chunk.data)
                    data += chunk.data
                    came += len(chunk.data)
                    self.received += len(chunk.data)
                    whole = len(data) // self.part * self.part
                    if whole > len(begun.kept):
                        begun.kept = data[:whole]
                        await self._ack(call, request.key, id_, begun)
                case "finish":
                    assert request.finish.size_bytes == len(data)
                    assert request.finish.sha256 == hashlib.sha256(data).digest()
                    begun.file, _ = self.files[self.add(bytes(data), begun.start.filename)]
                    begun.kept = data
                    await call.write(pb2.UploadFilesResponse(key=request.key, completed=begun.file))

    async def _ack(self, call: Any, key: str, id_: str, begun: Begun) -> None:
        ack = pb2.UploadAck(upload_id=id_, persisted_size=len(begun.kept))
        await call.write(pb2.UploadFilesResponse(key=key, ack=ack))

    async def _download(self, request: Any, call: Any) -> None:
        self.tokens.append(dict(call.invocation_metadata())["authorization"])
        self.asked_for.append(request.offset)
        fault = self.faults.pop(0) if self.faults else Fault()
        file, data = self.files[request.id]
        await call.write(pb2.DownloadFileResponse(file=file))
        wanted = data[request.offset : request.offset + request.limit if request.limit else None]
        for position in range(0, len(wanted), CHUNK):
            await fault.meet(call, position)
            piece = wanted[position : position + CHUNK]
            crc32c = google_crc32c.value(piece)
            if position >= fault.after and fault.damaged:
                piece = bytes(len(piece))
            chunk = pb2.DownloadChunk(offset=request.offset + position, data=piece, crc32c=crc32c)
            await call.write(pb2.DownloadFileResponse(chunk=chunk))
        if not fault.without_trailer:
            crc32c = google_crc32c.value(wanted) ^ fault.wrong_trailer
            trailer = pb2.DownloadTrailer(size_bytes=len(wanted), crc32c=crc32c)
            await call.write(pb2.DownloadFileResponse(trailer=trailer))


async def _drain(requests: Any) -> None:
    """As a real server does: who is writing when the status comes would see another one."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in requests:
                pass


async def _fail(call: Any, failure: DomainError) -> None:
    trailers = (("grpc-status-details-bin", to_rpc_status(failure).SerializeToString()),)
    await call.abort(code_of(failure), str(failure), trailers)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()
