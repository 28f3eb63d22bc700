"""What uploads may use of time and memory, and many of them at once."""

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.domain.digest import Digest
from services.file.domain.hashing import Hashing
from services.file.domain.ledger import Claim, Ledger
from services.file.domain.memory import MemoryBudget
from services.file.domain.parts import PartWriter
from services.file.domain.singles import Singles
from services.file.models import Usage
from services.file.store import open_parts
from services.kit.database import Database
from services.kit.ids import utc_now, uuid7
from tests.file.steps import (
    DEADLINE,
    MIB,
    PART,
    Behind,
    chunk,
    chunks,
    download,
    eventually,
    finish,
    some_bytes,
    start,
    then_wait,
    upload,
    whole,
)
from tests.support import raises_status

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
DATA = some_bytes(3 * PART + 1000)


@asynccontextmanager
async def part_writer(database: Database, folder: Path) -> AsyncIterator[PartWriter]:
    """The writer of an upload without a name."""
    claim = Claim(uuid7(), uuid7(), epoch=0, persisted=0, is_named=False, kept=timedelta(minutes=1))
    async with open_parts(folder.as_uri(), threads=1) as store:
        ledger = Ledger(database, store, utc_now, claim, quota=Usage(MIB, 1), on_marked=lambda _: None)
        hashing = Hashing(database, store, claim.upload_id, Digest(), 0, asyncio.Semaphore())
        singles = Singles(database, store, clock=utc_now, quota=Usage(MIB, 1))
        yield PartWriter(ledger, store, singles, MemoryBudget(16 * MIB), hashing, part_bytes=8 * MIB)


@contextmanager
def costing_at_most(size: int) -> Iterator[None]:
    """The block must not have more than so many bytes in memory at a time."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size


async def test_tiny_chunks_cost_no_more_memory_than_their_bytes(database: Database, tmp_path: Path) -> None:
    async with part_writer(database, tmp_path) as writer:
        with costing_at_most(3 * 400_000):
            for _ in range(200_000):
                await writer.add(os.urandom(2))


async def test_tiny_chunks_that_come_again_each_cost_no_more_memory_than_their_bytes(
    database: Database, tmp_path: Path
) -> None:
    async with part_writer(database, tmp_path) as writer:
        with costing_at_most(3 * 100_000):
            for offset in range(0, 100_000, 2):
                await writer.add(data := os.urandom(2))
                assert writer.filling.holds(offset, data)


async def test_an_upload_that_falls_silent_is_ended(
    serve_files: Any, as_user: Any, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.streams.DRAIN_SECONDS", 0.1)
    files, for_ever = await serve_files(file_idle_timeout=0.3), asyncio.Event()
    with raises_status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
        await files.UploadFile(then_wait([start(), *chunks(DATA)], for_ever), metadata=as_user("ann"), timeout=DEADLINE)
    assert await behind.is_empty()


async def test_twenty_uploads_at_once_do_not_mix(files: FileServiceStub, as_user: Any) -> None:
    ann = as_user("ann")
    contents = [some_bytes(3 * PART + n, seed=n) for n in range(20)]
    stored = await asyncio.gather(*(upload(files, ann, whole(data, str(n))) for n, data in enumerate(contents)))
    assert [file.filename for file in stored] == [str(n) for n in range(20)]
    received = await asyncio.gather(*(download(files, ann, file.id) for file in stored))
    assert [data for _, data in received] == contents


async def finishing_after(event: asyncio.Event) -> AsyncIterator[pb2.UploadFileRequest]:
    """An upload that is whole but for its `finish`, which comes after the event."""
    *before, finish = whole(DATA)
    for request in before:
        yield request
    await event.wait()
    yield finish


async def test_more_uploads_than_the_process_has_memory_for_are_refused(
    serve_files: Any, as_user: Any, behind: Behind
) -> None:
    files, first_may_end = await serve_files(file_max_uploads=1), asyncio.Event()
    call = files.UploadFile(finishing_after(first_may_end), metadata=as_user("ann"), timeout=DEADLINE)
    await eventually(lambda: len(behind.parts()) == 3)
    with raises_status(RESOURCE_EXHAUSTED, "OVERLOADED"):
        await upload(files, as_user("ann"), whole(b"second"))
    first_may_end.set()
    await call
    assert (await upload(files, as_user("ann"), whole(b"second"))).size_bytes == 6


async def test_one_user_does_not_take_the_places_of_the_others(serve_files: Any, as_user: Any, behind: Behind) -> None:
    files, first_may_end = await serve_files(file_max_uploads=2, file_max_uploads_per_user=1), asyncio.Event()
    call = files.UploadFile(finishing_after(first_may_end), metadata=as_user("ann"), timeout=DEADLINE)
    await eventually(lambda: len(behind.parts()) == 3)
    with raises_status(RESOURCE_EXHAUSTED, "OVERLOADED"):
        await upload(files, as_user("ann"), whole(b"second"))
    assert (await upload(files, as_user("bob"), whole(b"his first"))).size_bytes == 9
    first_may_end.set()
    await call


async def test_the_limits_are_told(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(file_max_bytes=5 * 2**40, file_max_open_uploads=3, file_idle_timeout=1.5)
    limits = await files.GetUploadLimits(pb2.GetUploadLimitsRequest(), metadata=as_user("ann"))
    assert limits.max_file_bytes == 5 * 2**40
    assert limits.max_open_uploads == 3
    assert limits.idle_timeout.ToTimedelta().total_seconds() == 1.5
    largest = [start(), chunk(0, some_bytes(limits.max_chunk_bytes)), finish()]
    assert (await upload(files, as_user("ann"), largest)).size_bytes == limits.max_chunk_bytes


@pytest.mark.parametrize("rpc", ["CreateUpload", "UploadFile", "UploadFiles"])
async def test_a_message_that_is_large_without_a_chunk_is_refused_before_it_is_looked_at(
    files: FileServiceStub, as_user: Any, rpc: str
) -> None:
    begun = pb2.UploadStart(filename="x", labels={f"label{number}": "" for number in range(60_000)})
    request: Any = pb2.CreateUploadRequest(start=begun)
    if rpc == "UploadFile":
        request = iter([pb2.UploadFileRequest(start=begun)])
    elif rpc == "UploadFiles":
        request = iter([pb2.UploadFilesRequest(key="a", start=begun)])
    call = getattr(files, rpc)(request, metadata=as_user("ann"), timeout=DEADLINE)
    with raises_status(RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"):
        await (call.read() if rpc == "UploadFiles" else call)
