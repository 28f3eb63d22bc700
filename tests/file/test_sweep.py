"""The worker's part: bytes that nobody needs are removed, and no others."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.domain.claims import Claims
from services.file.domain.limits import UploadLimits
from services.file.domain.uploads import Uploads
from services.file.models import Chunk, Part, Start
from services.file.repository.parts import PartRows
from services.file.store import StoreFailed, open_parts
from services.kit.database import Database
from services.kit.ids import utc_now
from tests.file.conftest import RunJobs
from tests.file.steps import (
    DEADLINE,
    LATER,
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
from tests.file.writing import QUOTA, part_writer
from tests.support import raises_status

DATA = some_bytes(3 * PART + 1000)
TWO_HOURS_AGO = """
    UPDATE file.uploads SET update_time = now() - interval '2 hours', expire_time = now() - interval '1 hour'
"""
PURGE_TIME_PAST = "UPDATE file.files SET purge_time = now() - interval '1 second' WHERE purge_time IS NOT NULL"

KILLED = """
import asyncio, sys
from uuid import UUID
from services.file.store import open_parts
from services.kit.database import Database
from services.kit.settings import DatabaseSettings
from tests.file.writing import part_writer

async def main(store_url, user_id):
    async with Database.open(DatabaseSettings()) as db, open_parts(store_url, threads=2) as store:
        writer = part_writer(db, store, UUID(user_id))
        while True:
            await writer.add(bytes(65536))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def sweep(behind: Behind, run_jobs: RunJobs) -> RunJobs:
    """Runs the jobs, and again when nothing that was given up can be on its way to the store any more."""

    async def sweep() -> None:
        await run_jobs()
        await behind.execute(LATER)
        await behind.execute("UPDATE file.parts SET dead_time = dead_time - interval '2 minutes'")
        await run_jobs()

    return sweep


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
    database_url: str, as_user: Any, behind: Behind, run_jobs: RunJobs, sweep: RunJobs
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
    await sweep()
    assert await behind.is_empty()
    await run_jobs()


async def test_an_upload_that_goes_on_is_left_alone(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: RunJobs, open_upload: Any
) -> None:
    await run_jobs()
    assert len(behind.parts()) == 3
    open_upload.go_on.set()
    stored = (await open_upload).file
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_an_upload_that_was_swept_cannot_become_a_file(
    files: FileServiceStub, as_user: Any, behind: Behind, sweep: RunJobs, open_upload: Any
) -> None:
    await behind.execute(TWO_HOURS_AGO)
    await sweep()
    open_upload.go_on.set()
    with raises_status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
        await open_upload
    assert await list_ids(files, as_user("ann")) == []
    await eventually(behind.is_empty)


async def test_an_upload_says_that_it_lives_while_its_part_fills(
    database: Database, as_user: Any, behind: Behind, run_jobs: RunJobs
) -> None:
    async with open_parts(behind.kept.url, threads=1) as store:
        now = utc_now()
        writer = part_writer(database, store, as_user.id("ann"), clock=lambda: now)
        await writer.add(bytes(PART + 1))
        await eventually(lambda: len(behind.parts()) == 1)
        await behind.execute(TWO_HOURS_AGO)
        now += timedelta(minutes=16)
        await writer.add(b"a few bytes, and much later than the ones before")
        await run_jobs()
        assert len(behind.parts()) == 1
        await writer.discard()
    assert await behind.is_empty()


async def test_a_stored_file_is_never_swept(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: RunJobs
) -> None:
    stored = await upload(files, as_user("ann"), whole(DATA))
    await behind.execute(TWO_HOURS_AGO)
    await run_jobs()
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_the_bytes_of_a_deleted_file_go_when_their_time_is_over(
    files: FileServiceStub, as_user: Any, behind: Behind, sweep: RunJobs
) -> None:
    ann = as_user("ann")
    kept, deleted = await upload(files, ann, whole(DATA)), await upload(files, ann, whole(DATA))
    await files.DeleteFile(pb2.DeleteFileRequest(id=deleted.id), metadata=ann)
    await sweep()
    assert len(behind.parts()) == 8
    await behind.execute(PURGE_TIME_PAST)
    await sweep()
    assert len(behind.parts()) == 4
    assert [await behind.count(table) for table in ("files", "uploads", "parts")] == [1, 1, 4]
    assert (await download(files, ann, kept.id))[1] == DATA


async def test_many_uploads_of_many_parts_are_removed_by_several_at_once(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: RunJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.file.domain.removal.PARTS_AT_A_TIME", 2)
    monkeypatch.setattr("services.file.domain.sweep.ROWS_AT_A_TIME", 2)
    for _ in range(5):
        stored = await upload(files, as_user("ann"), whole(DATA))
        await files.DeleteFile(pb2.DeleteFileRequest(id=stored.id), metadata=as_user("ann"))
    await behind.execute(PURGE_TIME_PAST)
    await asyncio.gather(*(run_jobs() for _ in range(3)))
    assert await behind.count("files") == 0
    await behind.execute(LATER)
    await asyncio.gather(*(run_jobs() for _ in range(3)))
    assert await behind.is_empty()


async def test_what_the_store_does_not_remove_now_is_removed_by_a_later_run(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: RunJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await upload(files, as_user("ann"), whole(DATA))
    await files.DeleteFile(pb2.DeleteFileRequest(id=stored.id), metadata=as_user("ann"))
    await behind.execute(PURGE_TIME_PAST)
    await run_jobs()
    await behind.execute(LATER)

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
    limits = UploadLimits(
        len(DATA), PART, 2 * len(DATA), 1, 1, 1, idle_timeout=hour, unfinished_kept=hour, named_kept=hour, quota=QUOTA
    )
    async with open_parts(behind.kept.url, threads=1) as store:
        uploads = Uploads(database, store, Claims(database, clock=utc_now, limits=limits), clock=utc_now, limits=limits)

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
    database: Database, as_user: Any, behind: Behind, run_jobs: RunJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, put = threading.Event(), threading.Event(), behind.kept.store.put

    def put_late(self: Any, key: str, data: Any) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        put(self, key, data)

    monkeypatch.setattr(behind.kept.store, "put", put_late)
    async with open_parts(behind.kept.url, threads=2) as store:
        writer = part_writer(database, store, as_user.id("ann"))
        await writer.add(DATA[: PART + 1])
        assert await asyncio.to_thread(begun.wait, DEADLINE)
        await behind.execute(TWO_HOURS_AGO)
        await run_jobs()
        assert await behind.count("parts"), "the row stays for a while: a part may come"
        await behind.execute(LATER)
        await run_jobs()
        assert not await behind.count("parts"), "this one comes later still"
        go_on.set()
        await eventually(behind.parts)
        await writer.discard()
    assert await behind.is_empty()


async def test_a_part_that_was_given_up_for_another_goes_and_the_upload_stays(
    files: FileServiceStub, as_user: Any, behind: Behind, sweep: RunJobs, database: Database
) -> None:
    stored = await upload(files, as_user("ann"), whole(DATA))
    (upload_id,) = (await behind.execute("SELECT upload_id FROM file.files")).scalars()
    later = utc_now() + timedelta(hours=1)
    async with open_parts(behind.kept.url, threads=1) as store:
        part = Part(PART, 5, 0, store.new_key())
        await store.put(part, [b"stale"], lambda _: None)
        await behind.execute(
            "INSERT INTO file.parts (upload_id, offset_bytes, size_bytes, crc32c, key, dead_time)"
            f" VALUES ('{upload_id}', {PART}, 5, 0, '{part.key}', '{later.isoformat()}')"
        )
        await sweep()
        assert len(behind.parts()) == 5, "it may have been given up this moment"
        await behind.execute(
            "UPDATE file.parts SET dead_time = now() - interval '2 minutes' WHERE dead_time IS NOT NULL"
        )
        await sweep()
    assert len(behind.parts()) == 4
    async with database.read() as tx:
        assert len(await PartRows(tx).list_all(upload_id, 10)) == 4
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_a_swept_upload_is_recognised_by_its_request_id_for_a_day(
    files: FileServiceStub, as_user: Any, behind: Behind, sweep: RunJobs
) -> None:
    begin = pb2.CreateUploadRequest(start=pb2.UploadStart(filename="a", request_id=str(uuid4())))
    await files.CreateUpload(begin, metadata=as_user("ann"))
    await behind.execute(TWO_HOURS_AGO)
    await sweep()
    with raises_status(grpc.StatusCode.NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await files.CreateUpload(begin, metadata=as_user("ann"))
    await behind.execute("UPDATE file.uploads SET create_time = create_time - interval '25 hours'")
    await sweep()
    assert await behind.is_empty()
    await files.CreateUpload(begin, metadata=as_user("ann"))
