"""What a user may have in all: told, held exactly, and free again when it is not needed any more."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.resuming import Sending, cancel, create, go_on, named_start
from tests.file.steps import (
    PART,
    Behind,
    Metadata,
    chunks,
    eventually,
    finish,
    keyed,
    resume,
    some_bytes,
    start,
    upload,
    whole,
)
from tests.support import detail, raises_status, reason_of, status_of

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
DATA = some_bytes(2 * PART + 1000)
Begin = Callable[..., pb2.UploadFileRequest]
NAMED_OR_NOT = pytest.mark.parametrize("begin", [start, named_start], ids=["nameless", "named"])


async def used(files: FileServiceStub, metadata: Metadata) -> tuple[int, int]:
    limits = await files.GetUploadLimits(pb2.GetUploadLimitsRequest(), metadata=metadata)
    return limits.used_bytes, limits.used_files


def uploading(data: bytes, begin: Begin = start) -> list[pb2.UploadFileRequest]:
    """An upload that declares nothing beforehand."""
    return [begin(), *chunks(data), finish()]


async def must_be_exceeded(failing: Awaitable[object]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await failing
    status = status_of(caught.value)
    assert caught.value.code() == RESOURCE_EXHAUSTED, caught.value
    assert reason_of(status) == "QUOTA_EXCEEDED"
    quota = detail(status, details_pb2.QuotaFailure)
    assert quota is not None
    assert "bytes" in quota.violations[0].description


async def test_a_users_quota_and_what_is_used_of_it_are_told(serve_files: Any, as_user: Any) -> None:
    files, ann = await serve_files(file_quota_bytes=PART * 100, file_quota_files=7), as_user("ann")
    limits = await files.GetUploadLimits(pb2.GetUploadLimitsRequest(), metadata=ann)
    assert (limits.quota_bytes, limits.quota_files) == (PART * 100, 7)
    assert await used(files, ann) == (0, 0)
    await upload(files, ann, uploading(DATA))
    await upload(files, ann, uploading(b"small"))
    await upload(files, ann, uploading(b""))
    assert await used(files, ann) == (len(DATA) + 5, 3)
    made = await create(files, ann)
    assert await used(files, ann) == (len(DATA) + 5, 4)
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_INCOMPLETE"):
        await upload(files, ann, [resume(made.id), *chunks(DATA[:700])])
    assert await used(files, ann) == (len(DATA) + 705, 4)
    await go_on(files, ann, made.id, chunks(DATA, behind=700))
    assert await used(files, ann) == (2 * len(DATA) + 5, 4)
    assert await used(files, as_user("bob")) == (0, 0)


@NAMED_OR_NOT
async def test_the_quota_itself_is_allowed_and_no_byte_more(serve_files: Any, as_user: Any, begin: Begin) -> None:
    files, ann = await serve_files(file_quota_bytes=len(DATA) + 10), as_user("ann")
    await upload(files, ann, uploading(DATA, begin))
    await must_be_exceeded(upload(files, ann, uploading(some_bytes(11))))
    assert await used(files, ann) == (len(DATA), 1)
    await upload(files, ann, uploading(some_bytes(10), begin))
    assert await used(files, ann) == (len(DATA) + 10, 2)
    await must_be_exceeded(upload(files, ann, uploading(b"x")))
    await upload(files, ann, uploading(b""))
    await upload(files, as_user("bob"), uploading(DATA, begin))


@NAMED_OR_NOT
async def test_the_number_of_files_is_held_too(serve_files: Any, as_user: Any, begin: Begin) -> None:
    files, ann = await serve_files(file_quota_files=2), as_user("ann")
    await upload(files, ann, uploading(DATA, begin))
    await upload(files, ann, uploading(b"", begin))
    for data in (b"", b"small", DATA):
        await must_be_exceeded(upload(files, ann, uploading(data, begin)))
    await must_be_exceeded(create(files, ann))
    assert await used(files, ann) == (len(DATA), 2)


@NAMED_OR_NOT
async def test_a_declared_size_that_is_over_the_quota_is_refused_before_a_byte_is_kept(
    serve_files: Any, as_user: Any, behind: Behind, begin: Begin
) -> None:
    files, ann = await serve_files(file_quota_bytes=len(DATA)), as_user("ann")
    await must_be_exceeded(upload(files, ann, [begin(size_bytes=len(DATA) + 1), *chunks(DATA), finish()]))
    await must_be_exceeded(create(files, ann, size_bytes=len(DATA) + 1))
    assert await behind.is_empty()
    assert await used(files, ann) == (0, 0)
    await upload(files, ann, [begin(size_bytes=len(DATA)), *chunks(DATA), finish()])


async def test_an_upload_that_comes_to_the_quota_can_go_on_once_there_is_room(serve_files: Any, as_user: Any) -> None:
    files, ann = await serve_files(file_quota_bytes=3 * PART), as_user("ann")
    other, made = await create(files, ann), await create(files, ann)
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_INCOMPLETE"):
        await upload(files, ann, [resume(other.id), *chunks(DATA[:PART])])
    await must_be_exceeded(go_on(files, ann, made.id, chunks(DATA)))
    assert await used(files, ann) == (3 * PART, 2)
    await cancel(files, ann, other.id)
    assert await used(files, ann) == (2 * PART, 1)
    stored = await go_on(files, ann, made.id, chunks(DATA, behind=2 * PART))
    assert stored.size_bytes == len(DATA)


async def test_what_was_refused_cut_or_cancelled_is_free_again(serve_files: Any, as_user: Any, behind: Behind) -> None:
    files, ann = await serve_files(), as_user("ann")
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "CHECKSUM_MISMATCH"):
        await upload(files, ann, [start(), *chunks(DATA), finish(sha256=bytes(32))])
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "CHECKSUM_MISMATCH"):
        await upload(files, ann, [start(), *chunks(b"small"), finish(sha256=bytes(32))])
    assert await used(files, ann) == (0, 0)
    sending = Sending(files, ann, [start(), *chunks(DATA)])
    await eventually(lambda: len(behind.parts()) == 2)
    assert await used(files, ann) == (2 * PART, 1)
    await sending.cut()

    async def is_free() -> bool:
        return await used(files, ann) == (0, 0)

    await eventually(is_free)
    made = await create(files, ann)
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "UPLOAD_INCOMPLETE"):
        await upload(files, ann, [resume(made.id), *chunks(DATA)])
    assert await used(files, ann) == (len(DATA), 1)
    await cancel(files, ann, made.id)
    assert await used(files, ann) == (0, 0)


@NAMED_OR_NOT
@pytest.mark.parametrize("size", [1000, 2 * PART + 1000])
async def test_of_twenty_uploads_at_once_as_many_are_kept_as_fit(
    serve_files: Any, as_user: Any, behind: Behind, begin: Begin, size: int
) -> None:
    """Over two processes. Who is refused frees its parts again, so that of larger ones some may fit only later."""
    quota = 7 * size + 500
    servers, ann = [await serve_files(file_quota_bytes=quota) for _ in range(2)], as_user("ann")
    counts = [0]
    watching = asyncio.create_task(watch_what_is_counted(behind, counts))
    try:
        results = await asyncio.gather(
            *(upload(servers[n % 2], ann, uploading(some_bytes(size, n), begin)) for n in range(20)),
            return_exceptions=True,
        )
    finally:
        watching.cancel()
    refused = [result for result in results if isinstance(result, BaseException)]
    for error in refused:
        assert isinstance(error, grpc.aio.AioRpcError)
        assert reason_of(status_of(error)) == "QUOTA_EXCEEDED"
    stored = 20 - len(refused)
    assert stored <= 7
    if size < PART:
        assert stored == 7
    if begin is start:
        assert await used(servers[0], ann) == (stored * size, stored)
        for n in range(7 - stored):
            await upload(servers[0], ann, uploading(some_bytes(size, n), begin))
    assert await counted_bytes(behind) == (await used(servers[0], ann))[0] <= quota
    assert max(counts) <= quota


async def counted_bytes(behind: Behind) -> int:
    """What is recorded, but for uploads that were given up: they count no more, though their parts go later."""
    rows = await behind.execute(
        "SELECT coalesce(sum(parts.size_bytes), 0) FROM file.parts JOIN file.uploads ON uploads.id = parts.upload_id"
        " WHERE dead_time IS NULL AND uploads.state IN ('OPEN', 'STORED')"
    )
    return int(rows.scalar_one())


async def watch_what_is_counted(behind: Behind, counts: list[int]) -> None:
    """Look again and again at how much is there."""
    while True:
        counts.append(await counted_bytes(behind))
        await asyncio.sleep(0.005)


async def test_of_many_files_on_one_stream_as_many_are_kept_as_fit(serve_files: Any, as_user: Any) -> None:
    files, ann = await serve_files(file_quota_files=3, file_quota_bytes=1000), as_user("ann")
    requests = [keyed(f"{n}", step) for n in range(6) for step in whole(b"x" * 100)]
    answers = [answer async for answer in files.UploadFiles(iter(requests), metadata=ann)]
    assert [answer.HasField("completed") for answer in answers] == [True] * 3 + [False] * 3
    assert {reason_of(answer.rejected) for answer in answers[3:]} == {"QUOTA_EXCEEDED"}
    assert await used(files, ann) == (300, 3)
