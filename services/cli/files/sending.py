"""The bytes of one upload, sent to their end over as many streams as that takes."""

import asyncio
from contextlib import suppress
from typing import Any

import google_crc32c
import grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.cli.client.caller import Caller
from services.cli.client.calls import bearer, failure_in
from services.cli.client.ending import Away, Failed
from services.cli.client.patience import Patience
from services.cli.files.insisting import STREAM_SECONDS, Pace, Watch, insisting, with_token
from services.cli.files.progress import Bar
from services.cli.files.sources import Source

KEY = "file"
CLOSE_SECONDS = 1.0


class _SourceIsQuiet(Exception):
    """The source has given nothing for so long that the server would end the stream."""


class Sending:
    """A source on its way into an upload that was created."""

    def __init__(
        self, caller: Caller, source: Source, upload: pb2.Upload, *, bar: Bar, patience: Patience, pace: Pace
    ) -> None:
        self._caller = caller
        self._files = FileServiceStub(caller.channel)
        self._source = source
        self._id = upload.id
        self._persisted = self._sent = upload.persisted_size
        self._finish: pb2.UploadFinish | None = None
        self._answers = 0
        self._bar = bar
        self._patience = patience
        self._pace = pace

    async def to_the_end(self) -> pb2.File:
        """Send what the server has not kept, and return the file. Raises Failed."""
        while True:
            await self._source.ready(self._sent)
            file = await insisting(self._patience, self._attempt)
            if file is not None:
                break
        if self._finish is None or file.sha256 != self._finish.sha256:
            raise Failed(f"what is stored as {file.id} is not what was sent")
        return file

    async def _attempt(self) -> pb2.File | None:
        """Send over one stream; None if the source is quiet."""
        await self._source.pass_over(self._persisted)
        return await with_token(self._caller, self._stream, lambda: self._answers)

    async def _stream(self, token: str) -> pb2.File | None:
        call: Any = self._files.UploadFiles(metadata=bearer(token), timeout=STREAM_SECONDS)
        watch = Watch(self._pace.stall_seconds)
        start: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(self._read(call, start, watch))
        writing = asyncio.create_task(self._write(call, start, watch))
        try:
            while not reading.done():
                at_work = {reading} if writing.done() else {reading, writing}
                await asyncio.wait(at_work, timeout=watch.left(), return_when=asyncio.FIRST_COMPLETED)
                if writing.done() and not reading.done():
                    await writing
                if not watch.left():
                    raise Away(f"{self._caller.target} takes nothing")
            return await reading
        except _SourceIsQuiet:
            return None
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            call.cancel()

    async def _read(self, call: Any, start: "asyncio.Future[int]", watch: Watch) -> pb2.File:
        """Take what the server says, up to its last word on the file."""
        while (response := await call.read()) is not grpc.aio.EOF:
            watch.moved()
            self._answers += 1
            match response.WhichOneof("outcome"):
                case "ack":
                    self._take(response.ack.persisted_size)
                    if not start.done():
                        start.set_result(response.ack.persisted_size)
                case "completed":
                    with suppress(TimeoutError, grpc.aio.AioRpcError):  # It is stored, however the stream ends.
                        async with asyncio.timeout(CLOSE_SECONDS):
                            await call.read()
                    file: pb2.File = response.completed
                    return file
                case "rejected":
                    raise failure_in(response.rejected)
        raise Away(f"{self._caller.target} has ended the stream without an answer")

    def _take(self, persisted: int) -> None:
        if persisted > self._persisted:
            self._persisted = persisted
            self._patience.renew()
        else:
            self._patience.contact()
        self._source.persisted(persisted)

    async def _write(self, call: Any, start: "asyncio.Future[int]", watch: Watch) -> None:
        """Send all that the server has not kept. Where the call fails, reading tells why."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(pb2.UploadFilesRequest(key=KEY, resume=pb2.UploadResume(upload_id=self._id)))
            offset = await start
            await self._source.pass_over(offset)
            while data := await self._next(offset, watch):
                chunk = pb2.UploadChunk(offset=offset, data=data, crc32c=google_crc32c.value(data))
                await call.write(pb2.UploadFilesRequest(key=KEY, chunk=chunk))
                offset += len(data)
                self._sent = offset
                self._bar.at(offset)
                watch.moved()
            self._finish = await self._source.finish()
            await call.write(pb2.UploadFilesRequest(key=KEY, finish=self._finish))
            await call.done_writing()

    async def _next(self, offset: int, watch: Watch) -> bytes:
        watch.is_held_up = True
        try:
            async with asyncio.timeout(self._pace.quiet_seconds):
                return await self._source.read(offset)
        except TimeoutError:
            raise _SourceIsQuiet from None
        finally:
            watch.moved()
            watch.is_held_up = False
