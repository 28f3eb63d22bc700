"""The bytes of one download, received to their end over as many streams as that takes."""

import asyncio
from typing import Any

import google_crc32c
import grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.cli.client.caller import Caller
from services.cli.client.calls import bearer
from services.cli.client.ending import Away, Failed
from services.cli.client.patience import Patience
from services.cli.files.insisting import STREAM_SECONDS, Pace, insisting, with_token
from services.cli.files.progress import Bar
from services.cli.files.targets import Target


class WrongBytes(Failed):
    """What was received is not what is stored."""


class Receiving:
    """The bytes of a file from `start` to `end` on their way into a target, which may have some already.

    No `etag` is asked for: it changes with the file's name and labels, and the bytes of a file never change.
    """

    def __init__(
        self,
        caller: Caller,
        file: pb2.File,
        span: tuple[int, int],
        target: Target,
        *,
        bar: Bar,
        patience: Patience,
        pace: Pace,
    ) -> None:
        self._caller = caller
        self._files = FileServiceStub(caller.channel)
        self._file = file
        self._start, self._end = span
        self._target = target
        self._received = 0
        self._bar = bar
        self._patience = patience
        self._pace = pace

    async def to_the_end(self) -> None:
        """Receive what is not there yet. Raises Failed; WrongBytes if the whole of it cannot be right."""
        while self._start + self._target.size < self._end:
            await insisting(self._patience, self._attempt)
        is_whole = self._end - self._start == self._file.size_bytes
        if self._start + self._target.size != self._end or (is_whole and self._target.digest() != self._file.sha256):
            raise WrongBytes("what has come has not the SHA-256 of what was uploaded")

    async def _attempt(self) -> None:
        if self._start + self._target.size < self._end:  # else a stream has ended between the last byte and its trailer
            await with_token(self._caller, self._stream, lambda: self._received)

    async def _stream(self, token: str) -> None:
        offset = self._start + self._target.size
        request = pb2.DownloadFileRequest(id=self._file.id, offset=offset, limit=self._end - offset)
        call: Any = self._files.DownloadFile(request, metadata=bearer(token), timeout=STREAM_SECONDS)
        crc32c = 0
        try:
            while (response := await self._next(call)) is not grpc.aio.EOF:
                self._received += 1
                if response.HasField("chunk"):
                    await self._take(response.chunk)
                    crc32c = google_crc32c.extend(crc32c, response.chunk.data)
                elif response.HasField("trailer"):
                    came = (self._start + self._target.size - offset, crc32c)
                    if came != (response.trailer.size_bytes, response.trailer.crc32c):
                        raise WrongBytes("what has come is not what the server has sent")
                    return
            raise Away(f"{self._caller.target} has ended the stream before its end")
        finally:
            call.cancel()

    async def _next(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(self._pace.stall_seconds):
                return await call.read()
        except TimeoutError:
            raise Away(f"{self._caller.target} sends nothing") from None

    async def _take(self, chunk: pb2.DownloadChunk) -> None:
        position = self._start + self._target.size
        if chunk.offset != position or position + len(chunk.data) > self._end:
            raise WrongBytes(f"the server has sent bytes that were not asked for, at {chunk.offset}")
        if google_crc32c.value(chunk.data) != chunk.crc32c:
            raise Away(f"bytes were damaged on their way from {self._caller.target}")
        await self._target.write(chunk.data)
        self._patience.renew()
        self._bar.at(self._target.size)
