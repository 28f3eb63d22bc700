"""DownloadFile: the bytes that were uploaded, or none that were not."""

import asyncio
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.store import Folder
from tests.file.conftest import RunJobs
from tests.file.steps import DEADLINE, KIB, LATER, MIB, PART, Behind, download, eventually, some_bytes, upload, whole
from tests.support import raises_status

NOT_FOUND = grpc.StatusCode.NOT_FOUND
DATA_LOSS = grpc.StatusCode.DATA_LOSS
SIZE = 3 * PART + 1000
DATA = some_bytes(SIZE)


@pytest.fixture
async def stored(files: FileServiceStub, as_user: Any) -> pb2.File:
    return await upload(files, as_user("ann"), whole(DATA))


async def test_the_file_comes_first_and_is_as_it_was_told(
    files: FileServiceStub, as_user: Any, stored: pb2.File
) -> None:
    file, _ = await download(files, as_user("ann"), stored.id)
    assert file == stored


RANGES = [
    (0, 0),
    (0, 1),
    (0, SIZE),
    (0, SIZE + 1),
    (1, 0),
    (PART - 1, 2),
    (PART, PART),
    (PART + 5, PART),
    (2 * PART - 1, 0),
    (SIZE - 1, 0),
    (SIZE - 1, 2**62),
    (SIZE, 0),
    (SIZE, 5),
    (-1, 0),
    (-PART, 0),
    (-PART - 5, PART),
    (-SIZE, 0),
    (-SIZE - 1, 0),
    (-(2**62), 3),
]


async def test_any_range_can_be_had(
    files: FileServiceStub, as_user: Any, stored: pb2.File, subtests: pytest.Subtests
) -> None:
    for offset, limit in RANGES:
        with subtests.test(f"{limit or 'all'} bytes from {offset}"):
            _, received = await download(files, as_user("ann"), stored.id, offset=offset, limit=limit)
            at = max(0, SIZE + offset) if offset < 0 else offset
            assert received == (DATA[at : at + limit] if limit else DATA[at:])


async def test_bytes_come_in_chunks_of_the_size_that_is_set(serve_files: Any, as_user: Any) -> None:
    files, ann = await serve_files(file_download_chunk_bytes=48 * KIB), as_user("ann")
    stored = await upload(files, ann, whole(DATA[: 2 * PART]))
    call = files.DownloadFile(pb2.DownloadFileRequest(id=stored.id), metadata=ann, timeout=DEADLINE)
    sizes = [len(response.chunk.data) async for response in call if response.HasField("chunk")]
    assert sizes == [48 * KIB, 16 * KIB, 48 * KIB, 16 * KIB]


async def test_a_file_of_more_parts_than_are_listed_at_a_time_comes_whole(
    files: FileServiceStub, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.file.domain.downloads.PARTS_AT_A_TIME", 2)
    data = some_bytes(7 * PART)
    stored = await upload(files, as_user("ann"), whole(data))
    assert (await download(files, as_user("ann"), stored.id))[1] == data
    assert (await download(files, as_user("ann"), stored.id, offset=3 * PART + 9))[1] == data[3 * PART + 9 :]


async def test_an_offset_beyond_the_end_is_refused(files: FileServiceStub, as_user: Any, stored: pb2.File) -> None:
    with raises_status(grpc.StatusCode.OUT_OF_RANGE, "RANGE_INVALID"):
        await download(files, as_user("ann"), stored.id, offset=SIZE + 1)


async def test_of_an_empty_file_there_are_no_bytes(files: FileServiceStub, as_user: Any) -> None:
    stored = await upload(files, as_user("ann"), whole(b""))
    for offset in (0, -5):
        assert (await download(files, as_user("ann"), stored.id, offset=offset))[1] == b""


async def test_nothing_is_sent_of_a_file_with_another_etag(
    files: FileServiceStub, as_user: Any, stored: pb2.File
) -> None:
    ann = as_user("ann")
    assert (await download(files, ann, stored.id, if_etag=stored.etag))[1] == DATA
    request = pb2.UpdateFileRequest(
        id=stored.id, file=pb2.FilePatch(filename="other"), update_mask=FieldMask(paths=["filename"])
    )
    changed = (await files.UpdateFile(request, metadata=ann)).file
    call = files.DownloadFile(pb2.DownloadFileRequest(id=stored.id, if_etag=stored.etag), metadata=ann)
    with raises_status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        assert await call.read() is None
    assert (await download(files, ann, stored.id, if_etag=changed.etag))[1] == DATA


@pytest.mark.parametrize(("field", "value"), [("id", "no uuid"), ("limit", -1)])
async def test_a_request_that_breaks_a_rule_is_refused(
    files: FileServiceStub, as_user: Any, field: str, value: Any
) -> None:
    request = pb2.DownloadFileRequest(**{"id": str(uuid4()), field: value})
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
        async for _ in files.DownloadFile(request, metadata=as_user("ann"), timeout=DEADLINE):
            pass


async def test_a_file_that_never_was_is_not_found(files: FileServiceStub, as_user: Any) -> None:
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        await download(files, as_user("ann"), str(uuid4()))


def flip_a_bit(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def cut_short(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
async def test_damaged_bytes_are_never_sent(
    files: FileServiceStub, as_user: Any, stored: pb2.File, behind: Behind, damage: Callable[[Path], None]
) -> None:
    damage(behind.parts()[2])
    received = b""
    with raises_status(DATA_LOSS, "STORED_DATA_LOST"):
        async for response in files.DownloadFile(
            pb2.DownloadFileRequest(id=stored.id), metadata=as_user("ann"), timeout=DEADLINE
        ):
            received += response.chunk.data
    assert received == DATA[: 2 * PART]
    assert (await download(files, as_user("ann"), stored.id, limit=2 * PART))[1] == DATA[: 2 * PART]


async def test_what_is_lost_is_named_in_the_log(
    files: FileServiceStub, as_user: Any, stored: pb2.File, behind: Behind, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = behind.parts()[1]
    flip_a_bit(damaged)
    with raises_status(DATA_LOSS, "STORED_DATA_LOST"):
        await download(files, as_user("ann"), stored.id)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "stored data lost" in line)
    assert "critical" in line
    assert damaged.name in line


async def test_a_range_is_not_sent_if_its_part_is_damaged_elsewhere(
    files: FileServiceStub, as_user: Any, stored: pb2.File, behind: Behind
) -> None:
    flip_a_bit(behind.parts()[0])
    with raises_status(DATA_LOSS, "STORED_DATA_LOST"):
        await download(files, as_user("ann"), stored.id, limit=10)


async def test_a_file_that_is_purged_meanwhile_is_not_found_and_not_lost(
    serve_files: Any, as_user: Any, behind: Behind, run_jobs: RunJobs
) -> None:
    files = await serve_files(file_max_bytes=12 * 2**20)
    # More than fits between server and client, so that the download goes on for as long as nobody reads it.
    ann, data = as_user("ann"), some_bytes(12 * 2**20)
    stored = await upload(files, ann, whole(data, chunk_bytes=2**20))
    call = files.DownloadFile(pb2.DownloadFileRequest(id=stored.id), metadata=ann, timeout=DEADLINE)
    responses = aiter(call)
    await anext(responses)
    await files.PurgeFile(pb2.PurgeFileRequest(id=stored.id), metadata=ann)
    await behind.execute(LATER)
    await run_jobs()
    assert not behind.parts()
    received = b""
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        async for response in responses:
            received += response.chunk.data
    assert data.startswith(received)


async def test_a_deleted_file_goes_on_coming_to_who_had_begun(
    files: FileServiceStub, as_user: Any, run_jobs: RunJobs
) -> None:
    ann, data = as_user("ann"), some_bytes(9 * 2**20)
    stored = await upload(files, ann, whole(data, chunk_bytes=2**20))
    call = files.DownloadFile(pb2.DownloadFileRequest(id=stored.id), metadata=ann, timeout=DEADLINE)
    responses = aiter(call)
    await anext(responses)
    await files.DeleteFile(pb2.DeleteFileRequest(id=stored.id), metadata=ann)
    await run_jobs()
    assert b"".join([response.chunk.data async for response in responses]) == data


@pytest.mark.parametrize("lost", [0, 1, 3])
async def test_a_hole_in_the_manifest_is_data_loss(
    files: FileServiceStub, as_user: Any, stored: pb2.File, behind: Behind, lost: int
) -> None:
    await behind.execute(f"DELETE FROM file.parts WHERE offset_bytes = {lost * PART}")
    with raises_status(DATA_LOSS, "STORED_DATA_LOST"):
        await download(files, as_user("ann"), stored.id)


async def test_a_store_that_is_away_is_unavailable_and_no_data_loss(
    files: FileServiceStub, as_user: Any, stored: pb2.File, behind: Behind
) -> None:
    away = behind.kept.whole.with_name("elsewhere")
    shutil.move(behind.kept.whole, away)
    with raises_status(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        await download(files, as_user("ann"), stored.id)
    shutil.move(away, behind.kept.whole)
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_more_downloads_than_the_process_has_memory_for_are_refused(serve_files: Any, as_user: Any) -> None:
    files, ann = await serve_files(file_max_downloads=1), as_user("ann")
    # More than fits between server and client, so that the first download goes on for as long as nobody reads it.
    stored = await upload(files, ann, whole(some_bytes(9 * 2**20), chunk_bytes=2**20))
    first = files.DownloadFile(pb2.DownloadFileRequest(id=stored.id), metadata=ann, timeout=DEADLINE)
    await first.read()
    with raises_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"):
        await download(files, ann, stored.id)
    first.cancel()
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await download(files, ann, stored.id)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            else:
                break


async def test_a_download_that_nobody_reads_is_ended_and_gives_its_place_back(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(file_idle_timeout=0.2, file_max_downloads=1, file_part_bytes=8 * MIB)
    data, ann = some_bytes(8 * MIB), as_user("ann")
    stored = await upload(files, ann, whole(data, chunk_bytes=MIB))
    call: Any = files.DownloadFile(pb2.DownloadFileRequest(id=stored.id), metadata=ann, timeout=DEADLINE)
    await call.read()

    async def has_room() -> bool:
        with suppress(grpc.aio.AioRpcError):
            return (await download(files, ann, stored.id))[1] == data
        return False

    assert not await has_room()
    await eventually(has_room)
    call.cancel()


@pytest.mark.usefixtures("in_a_folder")
async def test_many_downloads_wait_for_a_busy_store_as_long_as_it_gets_on(
    serve_files: Any, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = await serve_files(file_store_threads=2, file_store_timeout=1.0)
    data, ann = some_bytes(100), as_user("ann")
    stored = await upload(files, ann, whole(data))
    read = Folder.read

    def read_slowly(store: Folder, key: str, sizes: Any) -> Any:
        time.sleep(0.1)
        return read(store, key, sizes)

    monkeypatch.setattr(Folder, "read", read_slowly)
    received = await asyncio.gather(*(download(files, ann, stored.id) for _ in range(40)))
    assert [bytes_ for _, bytes_ in received] == [data] * 40
