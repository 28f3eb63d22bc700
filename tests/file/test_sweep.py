"""The worker's part: bytes that nobody needs are removed, and no others."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.domain.parts import PartWriter
from services.file.domain.upload import UploadLimits
from services.file.domain.uploads import Uploads
from services.file.jobs import REMOVE_DELETED_FILES, REMOVE_UNFINISHED_UPLOADS
from services.file.models import Chunk, Start
from services.file.settings import FileJobSettings
from services.file.store import StoreFailed, open_parts
from services.file.wiring import open_file_jobs
from services.kit.database import Database
from services.kit.ids import utc_now
from tests.file.steps import (
    DEADLINE,
    PART,
    Behind,
    chunks,
    download,
    eventually,
    finish,
    list_ids,
    some_bytes,
    start,
    upload,
    whole,
)
from tests.support import raises_status

DATA = some_bytes(3 * PART + 1000)
TWO_HOURS_AGO = "UPDATE file.uploads SET update_time = now() - interval '2 hours'"

KILLED = """
import asyncio, sys
from pathlib import Path
from uuid import UUID
from services.file.domain.parts import PartWriter
from services.file.store import open_parts
from services.kit.database import Database
from services.kit.ids import utc_now
from services.kit.settings import DatabaseSettings
from datetime import timedelta

async def main(store_url, user_id):
    async with Database.open(DatabaseSettings()) as db, open_parts(store_url, threads=2) as store:
        writer = PartWriter(
            db, store, utc_now, user_id=UUID(user_id), part_bytes=65536, heartbeat=timedelta(hours=1)
        )
        while True:
            await writer.add(bytes(65536))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def run_jobs(settings: Any) -> Any:
    """Runs the jobs of files once, as the worker would."""

    async def run_jobs(**values: Any) -> None:
        async with open_file_jobs(settings(FileJobSettings, **values)) as jobs:
            periodic = [job for job in jobs if job.cron]
            assert {job.name for job in periodic} == {REMOVE_UNFINISHED_UPLOADS, REMOVE_DELETED_FILES}
            for job in periodic:
                await job.run()

    return run_jobs


@pytest.fixture
async def open_upload(files: FileServiceStub, as_user: Any, behind: Behind) -> Any:
    """An upload that has stored three parts and waits; set its event and it ends well."""
    go_on = asyncio.Event()

    async def requests() -> Any:
        for request in [start(), *chunks(DATA)]:
            yield request
        await go_on.wait()
        yield finish()

    call: Any = files.UploadFile(requests(), metadata=as_user("ann"))
    call.go_on = go_on
    await eventually(lambda: len(behind.parts()) == 3)
    yield call
    call.cancel()


async def test_what_a_killed_process_had_stored_is_removed(
    database_url: str, as_user: Any, behind: Behind, run_jobs: Any
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLED,
        behind.kept.url,
        str(as_user.id("ann")),
        env={**os.environ, "PARLEY_DATABASE_URL": database_url},
    )
    await eventually(lambda: len(behind.parts()) >= 5)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert len(behind.parts()) <= await behind.count("parts"), "there is a part that nobody knows of"
    await run_jobs()
    assert not await behind.is_empty(), "an upload is given time"
    await behind.execute(TWO_HOURS_AGO)
    await run_jobs()
    assert await behind.is_empty()
    await run_jobs()


async def test_an_upload_that_goes_on_is_left_alone(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: Any, open_upload: Any
) -> None:
    await run_jobs()
    assert len(behind.parts()) == 3
    open_upload.go_on.set()
    stored = (await open_upload).file
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_an_upload_that_was_swept_cannot_become_a_file(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: Any, open_upload: Any
) -> None:
    await behind.execute(TWO_HOURS_AGO)
    await run_jobs()
    open_upload.go_on.set()
    with raises_status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
        await open_upload
    assert await list_ids(files, as_user("ann")) == []
    await eventually(behind.is_empty)


async def test_an_upload_says_that_it_lives_while_its_part_fills(
    database: Database, as_user: Any, behind: Behind, run_jobs: Any
) -> None:
    async with open_parts(behind.kept.url, threads=1) as store:
        now = utc_now()
        writer = PartWriter(
            database,
            store,
            lambda: now,
            user_id=as_user.id("ann"),
            part_bytes=PART,
            heartbeat=timedelta(minutes=15),
        )
        await writer.add(bytes(PART))
        await eventually(lambda: len(behind.parts()) == 1)
        await behind.execute(TWO_HOURS_AGO)
        now += timedelta(minutes=16)
        await writer.add(b"a few bytes, and much later than the ones before")
        await run_jobs()
        assert len(behind.parts()) == 1
        await writer.discard()
    assert await behind.is_empty()


async def test_a_stored_file_is_never_swept(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: Any
) -> None:
    stored = await upload(files, as_user("ann"), whole(DATA))
    await behind.execute(TWO_HOURS_AGO)
    await run_jobs()
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_the_bytes_of_a_deleted_file_go_when_their_time_is_over(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: Any
) -> None:
    ann = as_user("ann")
    kept, deleted = await upload(files, ann, whole(DATA)), await upload(files, ann, whole(DATA))
    await files.DeleteFile(pb2.DeleteFileRequest(id=deleted.id), metadata=ann)
    await run_jobs()
    assert len(behind.parts()) == 8
    await behind.execute("UPDATE file.files SET delete_time = delete_time - interval '1 hour'")
    await run_jobs(file_deleted_after=3590)
    assert len(behind.parts()) == 4
    assert [await behind.count(table) for table in ("files", "uploads", "parts")] == [1, 1, 4]
    assert (await download(files, ann, kept.id))[1] == DATA


async def test_many_uploads_of_many_parts_are_removed_by_several_at_once(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.file.domain.removal.PARTS_AT_A_TIME", 2)
    monkeypatch.setattr("services.file.domain.sweep.ROWS_AT_A_TIME", 2)
    for _ in range(5):
        stored = await upload(files, as_user("ann"), whole(DATA))
        await files.DeleteFile(pb2.DeleteFileRequest(id=stored.id), metadata=as_user("ann"))
    await behind.execute("UPDATE file.files SET delete_time = now() - interval '2 days'")
    await asyncio.gather(*(run_jobs() for _ in range(3)))
    assert await behind.is_empty()


async def test_what_the_store_does_not_remove_now_is_removed_by_a_later_run(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await upload(files, as_user("ann"), whole(DATA))
    await files.DeleteFile(pb2.DeleteFileRequest(id=stored.id), metadata=as_user("ann"))
    await behind.execute("UPDATE file.files SET delete_time = now() - interval '2 days'")

    def fail(*_: Any) -> None:
        raise StoreFailed("away")

    with monkeypatch.context() as failing:
        failing.setattr(behind.kept.store, "delete", fail)
        await run_jobs()
    assert len(behind.parts()) == 4
    await run_jobs()
    assert await behind.is_empty()


async def test_an_upload_is_removed_although_its_client_goes_away_meanwhile(
    database: Database, as_user: Any, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    removing, go_on, delete = threading.Event(), threading.Event(), behind.kept.store.delete

    def slow_delete(self: Any, keys: Sequence[str]) -> None:
        removing.set()
        go_on.wait(DEADLINE)
        delete(self, keys)

    monkeypatch.setattr(behind.kept.store, "delete", slow_delete)
    hour, user_id = timedelta(hours=1), as_user.id("ann")
    limits = UploadLimits(len(DATA), PART, 1, 1, 1, idle_timeout=hour, heartbeat=hour)
    async with open_parts(behind.kept.url, threads=1) as store:
        uploads = Uploads(database, store, clock=utc_now, limits=limits)

        async def receive() -> None:
            async with uploads.upload_file(user_id) as upload:
                await upload.take(Start("notes.bin", "", None))
                await upload.take(Chunk(0, DATA, None))

        receiving = asyncio.create_task(receive())
        await eventually(removing.is_set)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        go_on.set()
        await uploads.settle()
    assert await behind.is_empty()
    uploads.begin(user_id)  # its place is free again


async def test_a_part_that_reaches_the_store_after_the_sweep_is_not_left_there(
    database: Database, as_user: Any, behind: Behind, run_jobs: Any, monkeypatch: Any
) -> None:
    begun, go_on, put = threading.Event(), threading.Event(), behind.kept.store.put

    def put_late(self: Any, key: str, data: Any) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        put(self, key, data)

    monkeypatch.setattr(behind.kept.store, "put", put_late)
    async with open_parts(behind.kept.url, threads=2) as store:
        writer = PartWriter(
            database,
            store,
            utc_now,
            user_id=as_user.id("ann"),
            part_bytes=PART,
            heartbeat=timedelta(hours=1),
        )
        await writer.add(DATA[:PART])
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        await behind.execute(TWO_HOURS_AGO)
        await run_jobs()
        go_on.set()
        await writer.close()
        assert len(behind.parts()) == 1
        await writer.discard()
        assert await behind.is_empty()
