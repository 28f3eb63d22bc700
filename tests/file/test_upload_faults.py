"""An upload whose servers are killed again and again goes on each time, and leaves nothing behind but the file."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from tests.auth.suite import sign_up, start
from tests.file.file_process import FileProcess, file_process
from tests.file.resuming import get
from tests.file.steps import KIB, MIB, Behind, Metadata, chunk, finish, resume, some_bytes

pytestmark = pytest.mark.slow

SIZE, KILLS, SPARE = 256 * MIB, 50, 2
CHUNK = 256 * KIB
CALL_SECONDS = 60.0
LARGE = {"PARLEY_FILE_MAX_BYTES": str(SIZE), "PARLEY_FILE_PART_BYTES": str(MIB)}
LATER = (
    "UPDATE file.uploads SET update_time = update_time - interval '2 hours'",
    "UPDATE file.parts SET dead_time = dead_time - interval '2 hours'",
    "UPDATE file.reserved_parts SET expire_time = expire_time - interval '2 hours'",
)


class Client:
    """Somebody who uploads one file, and goes on with it wherever a server answers."""

    def __init__(self, metadata: Metadata, data: bytes, seed: int) -> None:
        self._metadata = metadata
        self._data = data
        self._random = random.Random(seed)
        self._start = pb2.UploadStart(filename="large.bin", size_bytes=len(data), request_id=str(uuid4()))
        self._upload_id = ""
        self.sent_to = 0

    async def persisted(self, files: FileServiceStub) -> int:
        """How much of it is kept, as the server says."""
        if self._upload_id and self._random.random() < 0.5:
            return (await get(files, self._metadata, self._upload_id)).persisted_size
        request = pb2.CreateUploadRequest(start=self._start)
        upload = (await files.CreateUpload(request, metadata=self._metadata, timeout=CALL_SECONDS)).upload
        self._upload_id = upload.id
        return upload.persisted_size

    def send(self, files: FileServiceStub, offset: int, until: int, passed: asyncio.Event) -> Any:
        """A call that goes on from an offset: up to another and then no further, or to the end and with `finish`."""
        by_id = self._random.random() < 0.5
        first = resume(self._upload_id) if by_id else pb2.UploadFileRequest(start=self._start)

        async def requests() -> AsyncIterator[pb2.UploadFileRequest]:
            yield first
            for at in range(offset, until, CHUNK):
                yield chunk(at, self._data[at : min(at + CHUNK, until)])
            passed.set()
            if until < len(self._data):
                await asyncio.Event().wait()  # The server is killed meanwhile.
            yield finish(size_bytes=len(self._data), sha256=hashlib.sha256(self._data).digest())

        return files.UploadFile(requests(), metadata=self._metadata, timeout=CALL_SECONDS)

    async def send_until_killed(self, server: FileProcess, until: int) -> int:
        """Go on up to an offset, kill the server a moment later, and return from where it went on."""
        kept = await self.persisted(server.files)
        offset = max(0, kept - self._random.choice((0, 0, self._random.randrange(2 * MIB))))
        passed = asyncio.Event()
        call = self.send(server.files, offset, max(until, offset), passed)
        await asyncio.wait_for(passed.wait(), CALL_SECONDS)
        await asyncio.sleep(self._random.uniform(0, 0.4))  # Not for an outcome: the kill comes at any moment.
        server.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        return kept


async def hash_of_download(files: FileServiceStub, metadata: Metadata, file_id: str) -> bytes:
    """SHA-256 of what a download brings; it must have a trailer."""
    hashed, last = hashlib.sha256(), ""
    call = files.DownloadFile(pb2.DownloadFileRequest(id=file_id), metadata=metadata, timeout=CALL_SECONDS)
    async for response in call:
        hashed.update(response.chunk.data)
        last = response.WhichOneof("content") or ""
    assert last == "trailer"
    return hashed.digest()


async def assert_no_orphan(behind: Behind, run_jobs: Any, size: int) -> None:
    """After the sweep the store has the parts that rows know of, and those are the file's alone."""
    for _ in range(2):  # A reserved name is given up by one sweep, and what is under it removed by a later one.
        for statement in LATER:
            await behind.execute(statement)
        await run_jobs()
    rows = (await behind.execute("SELECT key, size_bytes FROM file.parts")).all()
    assert sorted(key for key, _ in rows) == sorted(str(path.relative_to(behind.folder)) for path in behind.parts())
    assert sum(bytes_ for _, bytes_ in rows) == size
    assert await behind.count("reserved_parts") == 0


@pytest.mark.usefixtures("in_a_folder")
async def test_an_upload_whose_server_is_killed_50_times_is_the_same_file_and_leaves_no_orphan(
    database_url: str, tmp_path: Path, settings: Any, behind: Behind, run_jobs: Any
) -> None:
    data = b"".join(some_bytes(MIB, seed) for seed in range(SIZE // MIB))
    points = sorted(random.Random(2).sample(range(1, SIZE), KILLS))
    async with AsyncExitStack() as stack:
        auth = await start(stack, open_auth, settings(AuthSettings, auth_target=""))
        metadata = (await sign_up(AuthServiceStub(auth.channel))).metadata
        servers: list[FileProcess] = []

        async def serve_another() -> None:
            process = file_process(database_url, tmp_path, f"file-{uuid4()}", auth_address=auth.address, **LARGE)
            servers.append(await stack.enter_async_context(process))

        for _ in range(1 + SPARE):
            await serve_another()
        client = Client(metadata, data, seed=3)
        kept = []
        for point in points:
            server = servers.pop(0)
            await server.until_serving()
            kept.append(await client.send_until_killed(server, point))
            await serve_another()
        assert kept == sorted(kept), "what was kept was lost"
        assert len(set(kept)) > KILLS // 2
        assert kept[-1] > SIZE // 2
        server = servers[0]
        await server.until_serving()
        offset = await client.persisted(server.files)
        file = (await client.send(server.files, offset, SIZE, asyncio.Event())).file
        digest = hashlib.sha256(data).digest()
        assert (file.size_bytes, file.sha256) == (SIZE, digest)
        assert await hash_of_download(server.files, metadata, file.id) == digest
    await assert_no_orphan(behind, run_jobs, SIZE)
