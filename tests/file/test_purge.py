"""A user who is removed for good: neither rows nor bytes of its files are left, and all of the others'."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.jobs import PURGE_USER
from services.file.settings import FileJobSettings
from services.file.store import StoreFailed
from services.file.wiring import open_file_jobs
from tests.file.steps import PART, Behind, chunks, download, eventually, some_bytes, start, then_wait, upload, whole

DATA = some_bytes(2 * PART + 100)
Purge = Callable[[str], Awaitable[None]]


@pytest.fixture
def purge(settings: Any, as_user: Any) -> Purge:
    """Does the files' step for a user, as the worker would."""

    async def purge(name: str) -> None:
        async with open_file_jobs(settings(FileJobSettings)) as jobs:
            (job,) = (job for job in jobs if job.name == PURGE_USER)
            await job.run(user_id=str(as_user.id(name)))

    return purge


async def test_all_files_of_the_user_go_with_their_bytes_and_no_others(
    files: FileServiceStub, as_user: Any, behind: Behind, purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.file.domain.purge.ROWS_AT_A_TIME", 2)
    ann, bob = as_user("ann"), as_user("bob")
    theirs = [await upload(files, ann, whole(DATA)) for _ in range(5)]
    await upload(files, ann, whole(b""))
    await files.DeleteFile(pb2.DeleteFileRequest(id=theirs[0].id), metadata=ann)
    kept = await upload(files, bob, whole(DATA))
    await asyncio.gather(purge("ann"), purge("ann"))
    await purge("ann")
    assert len(behind.parts()) == 3
    assert [await behind.count(table) for table in ("files", "uploads", "parts")] == [1, 1, 3]
    assert (await download(files, bob, kept.id))[1] == DATA


async def test_an_upload_that_is_going_on_ends_and_leaves_nothing(
    files: FileServiceStub, as_user: Any, behind: Behind, purge: Purge
) -> None:
    go_on = asyncio.Event()
    call = files.UploadFile(then_wait([start(), *chunks(DATA)], go_on), metadata=as_user("ann"))
    await eventually(lambda: len(behind.parts()) == 2)
    await purge("ann")
    assert await behind.is_empty()
    go_on.set()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await eventually(behind.is_empty)


async def test_a_purge_that_the_store_breaks_off_is_finished_by_the_next(
    files: FileServiceStub, as_user: Any, behind: Behind, purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await upload(files, as_user("ann"), whole(DATA))
    calls, delete = 0, behind.kept.store.delete

    def fail_later(self: Any, keys: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreFailed("away")
        delete(self, keys)

    monkeypatch.setattr(behind.kept.store, "delete", fail_later)
    with pytest.raises(StoreFailed):
        await purge("ann")
    assert len(behind.parts()) == 6
    await purge("ann")
    assert await behind.is_empty()
