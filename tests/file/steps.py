"""What tests of files send, and what they look at behind the server's back."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
from sqlalchemy import text

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.store import Bucket, Folder
from services.kit.database import Database

KIB, MIB = 2**10, 2**20
PART = 64 * KIB
DEADLINE = 20.0

LATER = "UPDATE file.uploads SET update_time = update_time - interval '2 minutes'"
"""From then on nothing is on its way to the store any more that was discarded before."""

Metadata = tuple[tuple[str, str], ...]


def some_bytes(size: int, seed: int = 1) -> bytes:
    """Bytes in which every run is another, so that a swap or a hole would show."""
    return random.Random(seed).randbytes(size)


def start(filename: str = "notes.bin", **fields: Any) -> pb2.UploadFileRequest:
    return pb2.UploadFileRequest(start=pb2.UploadStart(filename=filename, **fields))


def resume(upload_id: str) -> pb2.UploadFileRequest:
    return pb2.UploadFileRequest(resume=pb2.UploadResume(upload_id=upload_id))


def chunk(offset: int, data: bytes, crc32c: int | None = None) -> pb2.UploadFileRequest:
    crc32c = google_crc32c.value(data) if crc32c is None else crc32c
    return pb2.UploadFileRequest(chunk=pb2.UploadChunk(offset=offset, data=data, crc32c=crc32c))


def chunks(data: bytes, chunk_bytes: int = 40 * KIB, *, behind: int = 0) -> list[pb2.UploadFileRequest]:
    """The bytes from an offset on."""
    return [chunk(at, data[at : at + chunk_bytes]) for at in range(behind, len(data), chunk_bytes)]


def finish(**fields: Any) -> pb2.UploadFileRequest:
    return pb2.UploadFileRequest(finish=pb2.UploadFinish(**fields))


def whole(data: bytes, filename: str = "notes.bin", chunk_bytes: int = 40 * KIB) -> list[pb2.UploadFileRequest]:
    """All of an upload, with everything that can be declared."""
    return [
        start(filename, content_type="application/x-notes", size_bytes=len(data)),
        *chunks(data, chunk_bytes),
        finish(size_bytes=len(data), sha256=hashlib.sha256(data).digest()),
    ]


def keyed(key: str, request: pb2.UploadFileRequest) -> pb2.UploadFilesRequest:
    """The same step, of one of several files."""
    step = request.WhichOneof("step")
    assert step is not None
    return pb2.UploadFilesRequest(key=key, **{step: getattr(request, step)})


async def upload(files: FileServiceStub, metadata: Metadata, requests: Iterable[pb2.UploadFileRequest]) -> pb2.File:
    return (await files.UploadFile(iter(list(requests)), metadata=metadata, timeout=DEADLINE)).file


async def download(files: FileServiceStub, metadata: Metadata, file_id: str, **fields: Any) -> tuple[pb2.File, bytes]:
    """The file and the bytes that came, each chunk of which is checked, and all by what the trailer says."""
    call = files.DownloadFile(pb2.DownloadFileRequest(id=file_id, **fields), metadata=metadata, timeout=DEADLINE)
    responses = [response async for response in call]
    assert responses[0].WhichOneof("content") == "file"
    assert responses[-1].WhichOneof("content") == "trailer"
    received, offset = b"", fields.get("offset", 0)
    if offset < 0:
        offset = max(0, responses[0].file.size_bytes + offset)
    for response in responses[1:-1]:
        assert response.chunk.offset == offset + len(received)
        assert response.chunk.crc32c == google_crc32c.value(response.chunk.data)
        received += response.chunk.data
    trailer = responses[-1].trailer
    assert (trailer.size_bytes, trailer.crc32c) == (len(received), google_crc32c.value(received))
    return responses[0].file, received


async def list_ids(files: FileServiceStub, metadata: Metadata) -> list[str]:
    response = await files.ListFiles(pb2.ListFilesRequest(), metadata=metadata)
    return [file.id for file in response.files]


class Kept(NamedTuple):
    """Where a test's parts are: the store's URL; the folder in which each is a file, also on S3; the whole store's."""

    url: str
    folder: Path
    whole: Path

    @property
    def store(self) -> type[Folder | Bucket]:
        """The kind of store that the URL opens."""
        return Folder if self.url.startswith("file:") else Bucket


class Behind:
    """What is really kept: the files of the store's folder, and the rows."""

    def __init__(self, kept: Kept, database: Database) -> None:
        self.folder = kept.folder
        self.kept = kept
        self._database = database

    def parts(self) -> list[Path]:
        """The stored parts, in the order in which they were written."""
        return sorted((path for path in self.folder.rglob("*") if path.is_file()), key=lambda path: path.name)

    async def count(self, table: str) -> int:
        return int((await self.execute(f"SELECT count(*) FROM file.{table}")).scalar_one())

    async def execute(self, statement: str) -> Any:
        async with self._database.transaction() as tx:
            return await tx.execute(text(statement))

    async def is_empty(self) -> bool:
        """Whether nothing is left: no part, no row."""
        return not self.parts() and not any([await self.count(table) for table in ("files", "parts", "uploads")])


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until the condition, a function or a coroutine function, is true."""
    async with asyncio.timeout(DEADLINE):
        while True:
            result = condition()
            if await result if asyncio.iscoroutine(result) else result:
                return
            await asyncio.sleep(0.01)


async def then_wait(requests: Iterable[pb2.UploadFileRequest], wait: asyncio.Event) -> AsyncIterator[Any]:
    """A client that sends these and then nothing until the event."""
    for request in requests:
        yield request
    await wait.wait()
