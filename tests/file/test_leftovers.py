"""What processes and take-overs leave behind: the sweep removes it in its time, and what is counted stays true."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from datetime import timedelta
from threading import Event, Lock
from typing import Any

import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.models import StoredFile
from services.file.store import StoreFailed, open_parts
from services.kit.database import Database
from services.kit.errors import CallTooLong
from services.kit.ids import utc_now, uuid7
from tests.file.conftest import RunJobs
from tests.file.resuming import Sending, cancel, create, go_on, send_and_cut
from tests.file.steps import (
    DEADLINE,
    LATER,
    PART,
    Behind,
    chunks,
    download,
    eventually,
    resume,
    some_bytes,
    upload,
    whole,
)
from tests.file.test_upload_property import WRONG_USAGE
from tests.file.writing import part_writer

DATA = some_bytes(3 * PART + 1000)
SMALL = b"a file of one part"
AN_HOUR_LATER = "UPDATE file.reserved_parts SET expire_time = now() - interval '1 second' WHERE NOT is_given_up"
NAMES_LATER = "UPDATE file.reserved_parts SET expire_time = expire_time - interval '2 minutes' WHERE is_given_up"
GIVEN_UP_LATER = "UPDATE file.parts SET dead_time = dead_time - interval '2 minutes'"

STORES_AND_WAITS = """
import asyncio, sys
from uuid import UUID
from services.file.store import open_parts
from services.kit.database import Database
from services.kit.settings import DatabaseSettings
from tests.file.writing import part_writer

async def main(store_url, user_id):
    async with Database.open(DatabaseSettings()) as db, open_parts(store_url, threads=2) as store:
        writer = part_writer(db, store, UUID(user_id))
        await writer.add(b"a file of one part")
        await writer.close()
        print("stored", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_killed_before_it_publishes_a_small_file_leaves_nothing(
    database_url: str, as_user: Any, behind: Behind, run_jobs: RunJobs
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STORES_AND_WAITS,
        behind.kept.url,
        str(as_user.id("ann")),
        env={**os.environ, "PARLEY_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while line := await process.stdout.readline():  # log lines may come first
                if line == b"stored\n":
                    break
            else:
                pytest.fail("it ended before it had stored anything")
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    (part,) = behind.parts()
    assert part.read_bytes() == SMALL
    await run_jobs()
    assert behind.parts() == [part], "its name is good for an hour"
    await behind.execute(AN_HOUR_LATER)
    await run_jobs()
    assert behind.parts() == [part], "it may be on its way to the store"
    await behind.execute(NAMES_LATER)
    await run_jobs()
    assert await behind.is_empty()
    assert await behind.count("reserved_parts") == 0
    assert await behind.count("usage") == 0


async def test_a_small_file_whose_name_was_given_up_cannot_be_published_and_goes(
    database: Database, as_user: Any, behind: Behind, run_jobs: RunJobs
) -> None:
    async with open_parts(behind.kept.url, threads=1) as store:
        user_id, now = as_user.id("ann"), utc_now()
        writer = part_writer(database, store, user_id)
        await writer.add(SMALL)
        digest = await writer.close()
        await behind.execute(AN_HOUR_LATER)
        await run_jobs()
        file = StoredFile(
            uuid7(), user_id, writer.upload_id, "a", "", len(SMALL), digest.sha256, None, "", {}, 1, now, now
        )
        with pytest.raises(CallTooLong):
            await writer.publish(file)
        await writer.discard()
    await behind.execute(NAMES_LATER)
    await run_jobs()
    assert await behind.is_empty()
    assert await behind.count("reserved_parts") == 0


async def test_a_small_file_outlives_the_name_that_was_reserved_for_it(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: RunJobs
) -> None:
    stored = await upload(files, as_user("ann"), whole(SMALL))
    for later in (AN_HOUR_LATER, NAMES_LATER):
        await behind.execute(later)
        await run_jobs()
    assert await behind.count("reserved_parts") == 0
    assert await download(files, as_user("ann"), stored.id) == (stored, SMALL)


async def test_parts_given_up_at_a_take_over_go_and_those_of_the_file_stay(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: RunJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_first, begun, proceed, refused = Lock(), Event(), Event(), Event()
    put = behind.kept.store.put

    def put_first_late(self: Any, key: str, data: Any) -> None:
        if is_first.acquire(blocking=False):
            begun.set()
            assert proceed.wait(DEADLINE)
        put(self, key, data)

    def refuse(_self: Any, _keys: Sequence[str]) -> None:
        refused.set()
        raise StoreFailed("away")

    ann = as_user("ann")
    made = await create(files, ann)
    with monkeypatch.context() as late:
        late.setattr(behind.kept.store, "put", put_first_late)
        late.setattr(behind.kept.store, "delete", refuse)
        first = Sending(files, ann, [resume(made.id), *chunks(DATA[: 2 * PART])])
        try:
            await eventually(begun.is_set)
            await eventually(lambda: len(behind.parts()) == 1)
            stored = await go_on(files, ann, made.id, chunks(DATA))
        finally:
            proceed.set()
        await first.cut()
        await eventually(refused.is_set)
    assert len(behind.parts()) == 6
    await run_jobs()
    assert len(behind.parts()) == 6, "they were given up just now"
    await behind.execute(GIVEN_UP_LATER)
    await run_jobs()
    assert (len(behind.parts()), await behind.count("parts")) == (4, 4)
    assert await download(files, ann, stored.id) == (stored, DATA)
    assert not (await behind.execute(WRONG_USAGE)).all()


async def test_what_is_counted_is_what_there_is_whatever_was_swept(
    files: FileServiceStub, as_user: Any, behind: Behind, run_jobs: RunJobs
) -> None:
    ann, bob = as_user("ann"), as_user("bob")

    async def used(metadata: Any) -> tuple[int, int]:
        limits = await files.GetUploadLimits(pb2.GetUploadLimitsRequest(), metadata=metadata)
        return limits.used_bytes, limits.used_files

    await upload(files, ann, whole(DATA))
    await upload(files, ann, whole(SMALL))
    await upload(files, ann, whole(b""))
    for data in (DATA, SMALL):
        deleted = await upload(files, ann, whole(data))
        await files.DeleteFile(pb2.DeleteFileRequest(id=deleted.id), metadata=ann)
    expired, cancelled, going_on = await create(files, ann), await create(files, ann), await create(files, bob)
    for who, made in ((ann, expired), (ann, cancelled), (bob, going_on)):
        await send_and_cut(files, who, made.id, chunks(DATA[: 2 * PART], PART), 2 * PART)
    await cancel(files, ann, cancelled.id)
    assert await used(ann) == (2 * len(DATA) + 2 * len(SMALL) + 2 * PART, 6), "deleted files count until they are gone"
    past = timedelta(seconds=1)
    await behind.execute(f"UPDATE file.uploads SET expire_time = '{utc_now() - past}' WHERE id = '{expired.id}'")
    await behind.execute(f"UPDATE file.files SET purge_time = '{utc_now() - past}' WHERE purge_time IS NOT NULL")
    for _ in range(2):
        await run_jobs()
        assert await used(ann) == (len(DATA) + len(SMALL), 3)
        assert await used(bob) == (2 * PART, 1)
        assert not (await behind.execute(WRONG_USAGE)).all()
        await behind.execute(LATER)
        await behind.execute(GIVEN_UP_LATER)
    assert len(behind.parts()) == 4 + 1 + 2
