"""What tests of uploads that can be resumed do: begin one, cut it, and look at how far it is."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.steps import DEADLINE, PART, Metadata, eventually, finish, resume, start, upload


async def create(files: FileServiceStub, metadata: Metadata, filename: str = "notes.bin", **fields: Any) -> pb2.Upload:
    request = pb2.CreateUploadRequest(start=pb2.UploadStart(filename=filename, **fields))
    return (await files.CreateUpload(request, metadata=metadata, timeout=DEADLINE)).upload


async def get(files: FileServiceStub, metadata: Metadata, upload_id: str) -> pb2.Upload:
    return (await files.GetUpload(pb2.GetUploadRequest(id=upload_id), metadata=metadata, timeout=DEADLINE)).upload


async def list_uploads(files: FileServiceStub, metadata: Metadata, **fields: Any) -> pb2.ListUploadsResponse:
    return await files.ListUploads(pb2.ListUploadsRequest(**fields), metadata=metadata, timeout=DEADLINE)


async def cancel(files: FileServiceStub, metadata: Metadata, upload_id: str) -> None:
    await files.CancelUpload(pb2.CancelUploadRequest(id=upload_id), metadata=metadata, timeout=DEADLINE)


async def go_on(
    files: FileServiceStub, metadata: Metadata, upload_id: str, requests: Iterable[pb2.UploadFileRequest] = ()
) -> pb2.File:
    """Resume an upload with these steps, and finish it."""
    return await upload(files, metadata, [resume(upload_id), *requests, finish()])


def named_start(**fields: Any) -> pb2.UploadFileRequest:
    return start(request_id=str(uuid4()), **fields)


class Sending:
    """A stream that a test goes on with as it likes."""

    def __init__(
        self, files: FileServiceStub, metadata: Metadata, requests: Iterable[pb2.UploadFileRequest] = ()
    ) -> None:
        self._requests: asyncio.Queue[pb2.UploadFileRequest | None] = asyncio.Queue()
        for request in requests:
            self.send(request)
        self.call: Any = files.UploadFile(self._generate(), metadata=metadata, timeout=DEADLINE)

    def send(self, *requests: pb2.UploadFileRequest) -> None:
        for request in requests:
            self._requests.put_nowait(request)

    async def answer(self) -> pb2.File:
        """Half-close, and have the answer."""
        self._requests.put_nowait(None)
        return (await self.call).file  # type: ignore[no-any-return]  # gRPC's call is untyped

    async def cut(self) -> None:
        """End it as a connection that breaks does."""
        self.call.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await self.call

    async def _generate(self) -> Any:
        while (request := await self._requests.get()) is not None:
            yield request


async def send_and_cut(
    files: FileServiceStub,
    metadata: Metadata,
    upload_id: str,
    requests: Iterable[pb2.UploadFileRequest],
    persisted: int,
) -> None:
    """Resume an upload, send these, and break the connection; return once this much is kept.

    Whole parts are waited for first. What follows them must come before the connection breaks: they are a single chunk.
    """
    sending = Sending(files, metadata, [resume(upload_id), *requests])
    await until_kept(files, metadata, upload_id, persisted - persisted % PART)
    await sending.cut()
    await until_kept(files, metadata, upload_id, persisted)


async def until_kept(files: FileServiceStub, metadata: Metadata, upload_id: str, size: int) -> None:
    """Wait until so many bytes of an upload are kept, or more."""

    async def is_kept() -> bool:
        return (await get(files, metadata, upload_id)).persisted_size >= size

    await eventually(is_kept)
