"""DeleteFile, UndeleteFile, PurgeFile: what is deleted can be had back for a while, and what is purged never."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.conftest import RunJobs, ServeFiles
from tests.file.steps import LATER, PART, Behind, download, list_ids, some_bytes, upload, whole
from tests.support import Metadata, raises_status

NOT_FOUND = grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND"
ABORTED = grpc.StatusCode.ABORTED, "ETAG_MISMATCH"
DATA = some_bytes(2 * PART + 100)
PAST = "UPDATE file.files SET purge_time = now() - interval '1 second' WHERE purge_time IS NOT NULL"


@pytest.fixture
def ann(as_user: Any) -> Metadata:
    metadata: Metadata = as_user("ann")
    return metadata


@pytest.fixture
async def stored(files: FileServiceStub, ann: Metadata) -> pb2.File:
    return await upload(files, ann, whole(DATA))


async def delete(files: FileServiceStub, who: Metadata, file_id: str, etag: str = "") -> pb2.File:
    return (await files.DeleteFile(pb2.DeleteFileRequest(id=file_id, etag=etag), metadata=who)).file


async def undelete(files: FileServiceStub, who: Metadata, file_id: str) -> pb2.File:
    return (await files.UndeleteFile(pb2.UndeleteFileRequest(id=file_id), metadata=who)).file


async def purge(files: FileServiceStub, who: Metadata, file_id: str, etag: str = "") -> None:
    await files.PurgeFile(pb2.PurgeFileRequest(id=file_id, etag=etag), metadata=who)


async def used(files: FileServiceStub, who: Metadata) -> tuple[int, int]:
    limits = await files.GetUploadLimits(pb2.GetUploadLimitsRequest(), metadata=who)
    return limits.used_bytes, limits.used_files


async def assert_gone(files: FileServiceStub, who: Metadata, file_id: str) -> None:
    assert file_id not in await list_ids(files, who)
    with raises_status(*NOT_FOUND):
        await files.GetFile(pb2.GetFileRequest(id=file_id), metadata=who)
    with raises_status(*NOT_FOUND):
        await download(files, who, file_id)
    with raises_status(*NOT_FOUND):
        await delete(files, who, file_id)
    update = pb2.UpdateFileRequest(
        id=file_id, file=pb2.FilePatch(filename="x"), update_mask=FieldMask(paths=["filename"])
    )
    with raises_status(*NOT_FOUND):
        await files.UpdateFile(update, metadata=who)


async def test_a_deleted_file_is_gone_and_says_until_when_it_can_be_had_back(
    files: FileServiceStub, ann: Metadata, stored: pb2.File
) -> None:
    deleted = await delete(files, ann, stored.id)
    kept = deleted.purge_time.ToDatetime() - deleted.delete_time.ToDatetime()
    assert kept == timedelta(days=30)
    deleted.ClearField("delete_time")
    deleted.ClearField("purge_time")
    assert deleted == stored
    await assert_gone(files, ann, stored.id)
    assert await used(files, ann) == (len(DATA), 1)


async def test_an_undeleted_file_is_as_it_was(files: FileServiceStub, ann: Metadata, stored: pb2.File) -> None:
    await delete(files, ann, stored.id)
    assert await undelete(files, ann, stored.id) == stored
    assert await download(files, ann, stored.id) == (stored, DATA)
    assert await list_ids(files, ann) == [stored.id]
    with raises_status(grpc.StatusCode.FAILED_PRECONDITION, "FILE_NOT_DELETED"):
        await undelete(files, ann, stored.id)


async def test_what_is_past_its_time_cannot_be_had_back_though_nobody_has_removed_it_yet(
    files: FileServiceStub, ann: Metadata, stored: pb2.File, behind: Behind, run_jobs: RunJobs
) -> None:
    await delete(files, ann, stored.id)
    await behind.execute(PAST)
    with raises_status(*NOT_FOUND):
        await undelete(files, ann, stored.id)
    listed = await files.ListFiles(pb2.ListFilesRequest(show_deleted=True), metadata=ann)
    assert (list(listed.files), listed.total_size) == ([], 0)
    await run_jobs()
    assert await used(files, ann) == (0, 0)


async def test_deleted_files_are_listed_only_for_whom_asks(
    files: FileServiceStub, ann: Metadata, stored: pb2.File
) -> None:
    other = await upload(files, ann, whole(b"x"))
    deleted = await delete(files, ann, stored.id)
    listed = await files.ListFiles(pb2.ListFilesRequest(show_deleted=True), metadata=ann)
    assert (list(listed.files), listed.total_size) == ([other, deleted], 2)
    assert await list_ids(files, ann) == [other.id]


async def test_the_time_that_deleted_files_are_kept_is_a_setting(serve_files: ServeFiles, ann: Metadata) -> None:
    files = await serve_files(file_deleted_after=60)
    deleted = await delete(files, ann, (await upload(files, ann, whole(b"x"))).id)
    assert deleted.purge_time.seconds - deleted.delete_time.seconds == 60


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_a_purged_file_is_gone_for_good_and_frees_its_quota(
    files: FileServiceStub, ann: Metadata, stored: pb2.File, behind: Behind, run_jobs: RunJobs, is_deleted: bool
) -> None:
    other = await upload(files, ann, whole(b"x"))
    if is_deleted:
        await delete(files, ann, stored.id)
    await purge(files, ann, stored.id)
    assert await used(files, ann) == (1, 1)
    await assert_gone(files, ann, stored.id)
    for again in (undelete, purge):
        with raises_status(*NOT_FOUND):
            await again(files, ann, stored.id)
    await behind.execute(LATER)
    await run_jobs()
    assert [await behind.count(table) for table in ("files", "uploads", "parts")] == [1, 1, 1]
    assert len(behind.parts()) == 1
    assert (await download(files, ann, other.id))[1] == b"x"


async def test_only_the_file_that_was_meant_is_deleted_or_purged(
    files: FileServiceStub, ann: Metadata, stored: pb2.File
) -> None:
    with raises_status(*ABORTED):
        await delete(files, ann, stored.id, "1-none")
    with raises_status(*ABORTED):
        await purge(files, ann, stored.id, "1-none")
    deleted = await delete(files, ann, stored.id, stored.etag)
    assert deleted.etag == stored.etag
    with raises_status(*ABORTED):
        await purge(files, ann, stored.id, "1-none")
    await purge(files, ann, stored.id, stored.etag)


async def test_a_strangers_file_and_one_that_is_not_there_are_not_found(
    files: FileServiceStub, as_user: Any, ann: Metadata, stored: pb2.File
) -> None:
    for act in (delete, undelete, purge):
        with raises_status(*NOT_FOUND):
            await act(files, as_user("bob"), stored.id)
        with raises_status(*NOT_FOUND):
            await act(files, ann, str(uuid4()))
    await delete(files, ann, stored.id)
    for act in (undelete, purge):
        with raises_status(*NOT_FOUND):
            await act(files, as_user("bob"), stored.id)
    assert await undelete(files, ann, stored.id) == stored
