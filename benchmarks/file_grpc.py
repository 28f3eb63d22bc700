"""Files over the file service's RPCs, as messages that were serialised before."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import google_crc32c
import grpc

from benchmarks.agent_calls import bearer
from benchmarks.file_orders import CLIENT_SECONDS, Order, Transfer, Way
from benchmarks.load import WrongAnswers
from parley.file.v1 import file_service_pb2 as pb2

CHUNK_BYTES = 1024 * 1024
CONNECTIONS = 4
"""At the most; fewer where fewer files are in flight."""
FILES_OF_A_STREAM = 8
_SERVICE = "/parley.file.v1.FileService/"
_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


@asynccontextmanager
async def opened(order: Order, content: memoryview) -> AsyncIterator[Transfer]:
    """The order over a few connections, all of which are there when the block begins."""
    channels = [
        grpc.aio.insecure_channel(order.address, options=_OPTIONS) for _ in range(min(CONNECTIONS, order.in_flight))
    ]
    try:
        for channel in channels:
            await asyncio.wait_for(channel.channel_ready(), CLIENT_SECONDS)
        kind = _Download if order.ids else _StreamedUpload if order.way is Way.STREAMS else _Upload
        yield kind(order, content, channels)
    finally:
        for channel in channels:
            await channel.close()


class _Over:
    """The calls of an order: without (de)serialisers, so that bytes go in and come out."""

    def __init__(self, order: Order, content: memoryview, channels: Sequence[grpc.aio.Channel]) -> None:
        self.order = order
        self.content = content
        self.channels = channels
        self.how: dict[str, Any] = {"metadata": (("authorization", bearer(order.token)),), "timeout": CLIENT_SECONDS}

    def over(self, tasks: int) -> list[grpc.aio.Channel]:
        """A channel for each of so many tasks."""
        return [self.channels[number % len(self.channels)] for number in range(tasks)]

    def check_stored(self, number: int, file: pb2.File) -> str:
        """The file's id. Raises WrongAnswers if it is another one than was sent."""
        sha256 = hashlib.sha256(self.content[self.order.slice_of(number)]).digest()
        if (file.size_bytes, file.sha256) != (self.order.file_bytes, sha256):
            raise WrongAnswers("an upload was answered with another size or SHA-256")
        return file.id


class _Upload(_Over):
    """A call of UploadFile for each file."""

    def __init__(self, order: Order, content: memoryview, channels: Sequence[grpc.aio.Channel]) -> None:
        super().__init__(order, content, channels)
        self._messages = [
            [pb2.UploadFileRequest(**step).SerializeToString() for step in _steps(order, number, content)]
            for number in range(order.files)
        ]
        self._answers = [b""] * order.files

    async def run(self) -> None:
        numbers = iter(range(self.order.files))
        async with asyncio.TaskGroup() as group:
            for channel in self.over(self.order.in_flight):
                group.create_task(self._uploads(channel, numbers))

    async def _uploads(self, channel: grpc.aio.Channel, numbers: Iterator[int]) -> None:
        upload_file: Any = channel.stream_unary(_SERVICE + "UploadFile")
        for number in numbers:
            call = upload_file(**self.how)
            for message in self._messages[number]:
                await call.write(message)
            await call.done_writing()
            self._answers[number] = await call

    def ids(self) -> list[str]:
        return [
            self.check_stored(number, pb2.UploadFileResponse.FromString(answer).file)
            for number, answer in enumerate(self._answers)
        ]


class _StreamedUpload(_Over):
    """A few streams of UploadFiles, each with several files that have been sent and are not answered yet."""

    def __init__(self, order: Order, content: memoryview, channels: Sequence[grpc.aio.Channel]) -> None:
        super().__init__(order, content, channels)
        self._messages = [
            [
                pb2.UploadFilesRequest(key=str(number), **step).SerializeToString()
                for step in _steps(order, number, content)
            ]
            for number in range(order.files)
        ]
        self._answers: list[bytes] = []

    async def run(self) -> None:
        numbers = iter(range(self.order.files))
        async with asyncio.TaskGroup() as group:
            for channel in self.over(max(1, self.order.in_flight // FILES_OF_A_STREAM)):
                group.create_task(self._uploads(channel, numbers))

    async def _uploads(self, channel: grpc.aio.Channel, numbers: Iterator[int]) -> None:
        call: Any = channel.stream_stream(_SERVICE + "UploadFiles")(**self.how)
        room = asyncio.Semaphore(FILES_OF_A_STREAM)

        async def send() -> None:
            for number in numbers:
                await room.acquire()
                for message in self._messages[number]:
                    await call.write(message)
            await call.done_writing()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            while (answer := await call.read()) is not grpc.aio.EOF:
                self._answers.append(answer)
                room.release()

    def ids(self) -> list[str]:
        answers = [pb2.UploadFilesResponse.FromString(answer) for answer in self._answers]
        files = {int(answer.key): answer for answer in answers}
        if len(files) != self.order.files:
            raise WrongAnswers(f"{len(files)} of {self.order.files} files were answered")
        rejected = [answer.rejected for answer in answers if answer.WhichOneof("outcome") == "rejected"]
        if rejected:
            raise WrongAnswers(f"{len(rejected)} files were rejected, such as for {rejected[0].message!r}")
        return [self.check_stored(number, files[number].completed) for number in range(self.order.files)]


class _Download(_Over):
    """A call of DownloadFile for each file."""

    def __init__(self, order: Order, content: memoryview, channels: Sequence[grpc.aio.Channel]) -> None:
        super().__init__(order, content, channels)
        self._requests = [pb2.DownloadFileRequest(id=file_id).SerializeToString() for file_id in order.ids]
        self._sizes = [0] * order.files
        self._bodies: list[bytearray | None] = [bytearray() if order.whole else None for _ in order.ids]

    async def run(self) -> None:
        numbers = iter(range(self.order.files))
        async with asyncio.TaskGroup() as group:
            for channel in self.over(self.order.in_flight):
                group.create_task(self._downloads(channel, numbers))

    async def _downloads(self, channel: grpc.aio.Channel, numbers: Iterator[int]) -> None:
        download_file: Any = channel.unary_stream(_SERVICE + "DownloadFile")
        for number in numbers:
            call, body, size = download_file(self._requests[number], **self.how), self._bodies[number], 0
            while (message := await call.read()) is not grpc.aio.EOF:
                size += _data_bytes(message)
                if body is not None:
                    body += pb2.DownloadFileResponse.FromString(message).chunk.data
            self._sizes[number] = size

    def ids(self) -> list[str]:
        for number, (size, body) in enumerate(zip(self._sizes, self._bodies, strict=True)):
            if size != self.order.file_bytes:
                raise WrongAnswers(f"a download had {size} bytes")
            if body is not None and body != self.content[self.order.slice_of(number)]:
                raise WrongAnswers("a download had other bytes than were uploaded")
        return list(self.order.ids)


def _steps(order: Order, number: int, content: memoryview) -> Iterator[dict[str, Any]]:
    """The fields of the messages that upload a file, with everything that can be declared of it."""
    data = content[order.slice_of(number)]
    kind = "application/octet-stream"
    yield {"start": pb2.UploadStart(filename=f"{number}.bin", content_type=kind, size_bytes=len(data))}
    for offset in range(0, len(data), CHUNK_BYTES):
        piece = bytes(data[offset : offset + CHUNK_BYTES])
        yield {"chunk": pb2.UploadChunk(offset=offset, data=piece, crc32c=google_crc32c.value(piece))}
    yield {"finish": pb2.UploadFinish(size_bytes=len(data), sha256=hashlib.sha256(data).digest())}


def _data_bytes(message: bytes) -> int:
    """How many bytes of a file are in a DownloadFileResponse; its other fields are read over, its bytes not copied."""
    at = _field(message, 0, pb2.DownloadFileResponse.CHUNK_FIELD_NUMBER)
    if at is None:
        return 0
    _, at = _varint(message, at)
    at = _field(message, at, pb2.DownloadChunk.DATA_FIELD_NUMBER)
    return 0 if at is None else _varint(message, at)[0]


def _field(message: bytes, at: int, wanted: int) -> int | None:
    """Where a length-delimited field's length stands, from `at` on; None if it is not there."""
    while at < len(message):
        tag, at = _varint(message, at)
        if tag >> 3 == wanted:
            return at
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case _:
                size, at = _varint(message, at)
                at += size
    return None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
