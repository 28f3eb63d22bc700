"""A client that does not read: when its session has ended, its stream makes room for others all the same."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import pytest
from grpc import StatusCode

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1 import file_service_pb2_grpc as pb2_grpc
from services.kit.ids import uuid7
from services.kit.revocations import RevokedSessions
from tests.kit.conftest import FILE_ID, Start, started
from tests.support import Metadata, TestKeys, bearer, raises_status, reason_of, status_of

pytestmark = pytest.mark.slow

FREE_AFTER = 6.0
LARGE = bytes(1_000_000)
MANY = 20  # far more than gRPC takes for a client that does not read


class Sender:
    """Streams that send, and how much they have sent."""

    def __init__(self) -> None:
        self.sent = 0

    async def download(self, _request: Any, _call: Any) -> AsyncIterator[pb2.DownloadFileResponse]:
        for _ in range(MANY):
            yield pb2.DownloadFileResponse(chunk=pb2.DownloadChunk(data=LARGE))
            self.sent += 1

    async def upload(self, stream: Any, _call: Any) -> None:
        for _ in range(MANY):
            await stream.send(pb2.UploadFilesResponse(key=LARGE.decode()))
            self.sent += 1

    async def fill_windows(self) -> None:
        """Return once nothing more can be sent."""
        before = -1
        async with asyncio.timeout(5):
            while not 0 < before == self.sent:
                before = self.sent
                await asyncio.sleep(0.3)
        assert self.sent < MANY


async def test_a_stream_whose_client_does_not_read_makes_room_when_its_session_is_revoked(
    start: Start, keys: TestKeys, revoked: RevokedSessions
) -> None:
    async def of_kind(kind: str) -> None:
        sender = Sender()
        channel = await start(DownloadFile=sender.download, UploadFiles=sender.upload, max_streams=1)
        stub = pb2_grpc.FileServiceStub(channel)

        def call(metadata: Metadata) -> Any:
            if kind == "DownloadFile":
                return stub.DownloadFile(pb2.DownloadFileRequest(id=FILE_ID), metadata=metadata, timeout=30)
            return stub.UploadFiles(metadata=metadata, timeout=30)

        session, another = uuid7(), bearer(keys.token(uuid4()))
        unread = call(bearer(keys.token(uuid4(), sid=str(session))))
        if kind == "UploadFiles":
            await unread.write(started("a"))
        await sender.fill_windows()
        with raises_status(StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"):
            await call(another).read()
        began = time.monotonic()
        revoked.add([session], time.time() + 900)
        while not await is_let_in(call(another)):
            assert time.monotonic() - began < FREE_AFTER
        # Whoever reads on after all gets what was sent, and hears why it ended.
        with raises_status(StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"):
            async with asyncio.timeout(5):
                while await unread.read():
                    pass

    await asyncio.gather(of_kind("DownloadFile"), of_kind("UploadFiles"))


async def is_let_in(call: Any) -> bool:
    """Whether a stream is served, as there is room for it."""
    try:
        return bool(await call.read())
    except grpc.aio.AioRpcError as error:
        if reason_of(status_of(error)) != "OVERLOADED":
            raise
        await asyncio.sleep(0.1)
        return False
    finally:
        call.cancel()
