"""For uploads in a storm: somebody who uploads a large file wherever a server answers, and what must be left of it."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.resuming import get
from tests.file.steps import KIB, MIB, Behind, Metadata, chunk, finish, keyed, resume, some_bytes

SIZE = 256 * MIB
CHUNK = 256 * KIB
CALL_SECONDS = 60.0
LARGE = {"PARLEY_FILE_MAX_BYTES": str(SIZE), "PARLEY_FILE_PART_BYTES": str(MIB)}
_LATER = (
    "UPDATE file.uploads SET update_time = update_time - interval '2 hours'",
    "UPDATE file.parts SET dead_time = dead_time - interval '2 hours'",
    "UPDATE file.reserved_parts SET expire_time = expire_time - interval '2 hours'",
)


class Client:
    """Somebody who uploads one file of SIZE bytes, and goes on with it after whatever happens."""

    def __init__(self, metadata: Metadata, seed: int) -> None:
        self.data = b"".join(some_bytes(MIB, number) for number in range(SIZE // MIB))
        self.sha256 = hashlib.sha256(self.data).digest()
        self.acknowledged = 0
        """How much of it was acknowledged, the last time that it was sent with acknowledgements."""
        self.random = random.Random(seed)
        self._metadata = metadata
        self._start = pb2.UploadStart(filename="large.bin", size_bytes=SIZE, request_id=str(uuid4()))
        self._upload_id = ""

    async def persisted(self, files: FileServiceStub) -> int:
        """How much of it is kept, as the server says."""
        if self._upload_id and self.random.random() < 0.5:
            return (await get(files, self._metadata, self._upload_id)).persisted_size
        request = pb2.CreateUploadRequest(start=self._start)
        upload = (await files.CreateUpload(request, metadata=self._metadata, timeout=CALL_SECONDS)).upload
        self._upload_id = upload.id
        return upload.persisted_size

    def a_little_before(self, kept: int) -> int:
        """Where to go on from: sometimes with bytes that the server has."""
        return max(0, kept - self.random.choice((0, 0, self.random.randrange(2 * MIB))))

    def send(self, files: FileServiceStub, offset: int, until: int = SIZE, passed: asyncio.Event | None = None) -> Any:
        """A call that goes on from an offset: up to another and then no further, or to the end and with `finish`."""
        first = self._first()

        async def requests() -> AsyncIterator[pb2.UploadFileRequest]:
            yield first
            for at in range(offset, until, CHUNK):
                yield chunk(at, self.data[at : min(at + CHUNK, until)])
            if passed is not None:
                passed.set()
            if until < SIZE:
                await asyncio.Event().wait()  # What it talks to is killed meanwhile.
            yield self._last()

        return files.UploadFile(requests(), metadata=self._metadata, timeout=CALL_SECONDS)

    async def send_until_answered(self, files: FileServiceStub, offset: int) -> pb2.File | int:
        """Go on from an offset, with acknowledgements: the file, or the code of what it was rejected with."""
        call: Any = files.UploadFiles(metadata=self._metadata, timeout=CALL_SECONDS)

        async def write() -> None:
            await call.write(keyed("a", self._first()))
            for at in range(offset, SIZE, CHUNK):
                await call.write(keyed("a", chunk(at, self.data[at : at + CHUNK])))
            await call.write(keyed("a", self._last()))

        writing = asyncio.create_task(write())
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                if answer.HasField("ack"):
                    self.acknowledged = max(self.acknowledged, answer.ack.persisted_size)
                else:
                    outcome: pb2.File | int
                    outcome = answer.completed if answer.HasField("completed") else answer.rejected.code
                    return outcome
            raise AssertionError(f"no answer: {await call.code()}")
        finally:
            writing.cancel()
            call.cancel()
            await asyncio.wait((writing,))

    def _first(self) -> pb2.UploadFileRequest:
        by_id = self.random.random() < 0.5
        return resume(self._upload_id) if by_id else pb2.UploadFileRequest(start=self._start)

    def _last(self) -> pb2.UploadFileRequest:
        return finish(size_bytes=SIZE, sha256=self.sha256)

    async def assert_stored(self, files: FileServiceStub, file: pb2.File) -> None:
        """What the server has, and sends, is what was sent."""
        assert (file.size_bytes, file.sha256) == (SIZE, self.sha256)
        hashed, last = hashlib.sha256(), ""
        call = files.DownloadFile(pb2.DownloadFileRequest(id=file.id), metadata=self._metadata, timeout=CALL_SECONDS)
        async for response in call:
            hashed.update(response.chunk.data)
            last = response.WhichOneof("content") or ""
        assert last == "trailer"
        assert hashed.digest() == self.sha256


async def assert_no_orphan(behind: Behind, run_jobs: Any) -> None:
    """After the sweep the store has the parts that rows know of, and those are the file's alone."""
    for _ in range(2):  # A reserved name is given up by one sweep, and what is under it removed by a later one.
        for statement in _LATER:
            await behind.execute(statement)
        await run_jobs()
    rows = (await behind.execute("SELECT key, size_bytes FROM file.parts")).all()
    assert sorted(key for key, _ in rows) == sorted(str(path.relative_to(behind.folder)) for path in behind.parts())
    assert sum(size for _, size in rows) == SIZE
    assert await behind.count("reserved_parts") == 0
