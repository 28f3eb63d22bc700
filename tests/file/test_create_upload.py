"""CreateUpload, GetUpload, ListUploads, CancelUpload: uploads that have a name."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any
from uuid import uuid4

import google_crc32c
import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.settings import FileJobSettings
from services.file.wiring import open_file_jobs
from tests.file.resuming import Sending, cancel, create, get, go_on, list_uploads, named_start, until_kept
from tests.file.steps import PART, Behind, chunk, chunks, eventually, finish, resume, some_bytes, upload
from tests.support import raises_status

NOT_FOUND = grpc.StatusCode.NOT_FOUND
DATA = some_bytes(2 * PART + 1000)


async def test_an_upload_that_was_created_is_shown_as_it_was_declared(files: FileServiceStub, as_user: Any) -> None:
    made = await create(files, as_user("ann"), "plan.pdf", content_type="application/pdf", size_bytes=7)
    assert (made.filename, made.content_type, made.size_bytes) == ("plan.pdf", "application/pdf", 7)
    assert (made.state, made.persisted_size, made.file_id) == (pb2.UPLOAD_STATE_OPEN, 0, "")
    limits = await files.GetUploadLimits(pb2.GetUploadLimitsRequest(), metadata=as_user("ann"))
    kept_for = made.expire_time.ToDatetime() - made.create_time.ToDatetime()
    assert kept_for == limits.upload_expiry.ToTimedelta() == timedelta(days=7)
    assert await get(files, as_user("ann"), made.id) == made
    assert not (await create(files, as_user("ann"))).HasField("size_bytes")


async def test_a_new_upload_is_no_file_however_many_there_are(files: FileServiceStub, as_user: Any) -> None:
    for number in range(3):
        assert (await create(files, as_user("ann"))).file_id == ""
        await upload(files, as_user("ann"), [named(str(uuid4())), *chunks(DATA[:number]), finish()])


async def test_what_was_declared_at_its_creation_holds_for_the_file(
    files: FileServiceStub, as_user: Any, subtests: pytest.Subtests
) -> None:
    right: dict[str, Any] = {
        "size_bytes": len(DATA),
        "sha256": hashlib.sha256(DATA).digest(),
        "crc32c": google_crc32c.value(DATA),
        "labels": {"project": "x"},
    }
    made = await create(files, as_user("ann"), **right)
    stored = await go_on(files, as_user("ann"), made.id, chunks(DATA))
    assert (stored.sha256, stored.crc32c, dict(stored.labels)) == (right["sha256"], right["crc32c"], {"project": "x"})
    wrong: dict[str, Any] = {"size_bytes": 1, "sha256": bytes(32), "crc32c": 1}
    for name, value in wrong.items():
        with subtests.test(name):
            other = await create(files, as_user("ann"), **{name: value})
            reason = "SIZE_MISMATCH" if name == "size_bytes" else "CHECKSUM_MISMATCH"
            with raises_status(grpc.StatusCode.INVALID_ARGUMENT, reason):
                await go_on(files, as_user("ann"), other.id, chunks(DATA))
            assert (await get(files, as_user("ann"), other.id)).state == pb2.UPLOAD_STATE_OPEN


async def test_a_repeated_creation_answers_with_the_upload_as_it_is_now(files: FileServiceStub, as_user: Any) -> None:
    fields: dict[str, Any] = {"request_id": str(uuid4()), "size_bytes": len(DATA), "labels": {"b": "1", "a": "2"}}
    first = await create(files, as_user("ann"), **fields)
    assert await create(files, as_user("ann"), **fields) == first
    stored = await go_on(files, as_user("ann"), first.id, chunks(DATA))
    again = await create(files, as_user("ann"), **fields)
    assert (again.id, again.state, again.file_id) == (first.id, pb2.UPLOAD_STATE_STORED, stored.id)
    assert (await list_uploads(files, as_user("ann"))).total_size == 0


@pytest.mark.parametrize(
    "other",
    [
        {"filename": "other.bin"},
        {"content_type": "text/plain"},
        {"size_bytes": 8},
        {"sha256": bytes(32)},
        {"crc32c": 0},
        {"labels": {"a": "b"}},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_a_request_id_is_good_for_one_payload(
    files: FileServiceStub, as_user: Any, other: dict[str, Any]
) -> None:
    fields = {"filename": "notes.bin", "request_id": str(uuid4())}
    await create(files, as_user("ann"), **fields)
    with raises_status(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        await create(files, as_user("ann"), **fields | other)
    with raises_status(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"):
        start = pb2.UploadFileRequest(start=pb2.UploadStart(**fields | other))
        await upload(files, as_user("ann"), [start, finish()])
    assert (await list_uploads(files, as_user("ann"))).total_size == 1


async def test_a_request_id_is_its_users_own(files: FileServiceStub, as_user: Any) -> None:
    request_id = str(uuid4())
    hers = await create(files, as_user("ann"), request_id=request_id)
    his = await create(files, as_user("bob"), "another.bin", request_id=request_id)
    assert hers.id != his.id


async def test_creations_at_the_same_moment_make_one_upload(serve_files: Any, as_user: Any) -> None:
    servers, request_id = [await serve_files(), await serve_files()], str(uuid4())
    made = await asyncio.gather(*(create(servers[n % 2], as_user("ann"), request_id=request_id) for n in range(10)))
    assert len({one.id for one in made}) == 1
    assert (await list_uploads(servers[0], as_user("ann"))).total_size == 1


async def test_anothers_upload_is_not_found(files: FileServiceStub, as_user: Any) -> None:
    made, bob = await create(files, as_user("ann")), as_user("bob")
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await get(files, bob, made.id)
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await cancel(files, bob, made.id)
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await go_on(files, bob, made.id, chunks(DATA))
    assert (await list_uploads(files, bob)).total_size == 0
    assert await get(files, as_user("ann"), made.id) == made


async def test_an_upload_without_a_name_is_no_upload_to_others_calls(
    files: FileServiceStub, as_user: Any, behind: Behind
) -> None:
    sending = Sending(files, as_user("ann"), [pb2.UploadFileRequest(start=pb2.UploadStart(filename="x"))])
    sending.send(*chunks(DATA))
    await eventually(lambda: len(behind.parts()) == 2)
    (upload_id,) = (await behind.execute("SELECT id FROM file.uploads")).one()
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await get(files, as_user("ann"), str(upload_id))
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await go_on(files, as_user("ann"), str(upload_id))
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await cancel(files, as_user("ann"), str(upload_id))
    assert (await list_uploads(files, as_user("ann"))).total_size == 0
    sending.send(finish())
    assert (await sending.answer()).size_bytes == len(DATA)


async def test_ids_that_are_none_are_refused(files: FileServiceStub, as_user: Any) -> None:
    for call in (get, cancel):
        with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["id"]):
            await call(files, as_user("ann"), "seven")
        with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
            await call(files, as_user("ann"), str(uuid4()))


async def test_open_uploads_are_listed_newest_first_page_by_page(files: FileServiceStub, as_user: Any) -> None:
    ann = as_user("ann")
    made = [(await create(files, ann, f"{n}")).id for n in range(5)][::-1]
    await create(files, as_user("bob"))
    first = await list_uploads(files, ann, page_size=2)
    assert ([one.id for one in first.uploads], first.total_size) == (made[:2], 5)
    second = await list_uploads(files, ann, page_size=2, page_token=first.next_page_token)
    third = await list_uploads(files, ann, page_size=2, page_token=second.next_page_token)
    assert [one.id for one in (*second.uploads, *third.uploads)] == made[2:]
    assert third.next_page_token == ""
    assert [one.id for one in (await list_uploads(files, ann, skip=3)).uploads] == made[3:]
    await go_on(files, ann, made[0])
    await cancel(files, ann, made[1])
    left = await list_uploads(files, ann)
    assert ([one.id for one in left.uploads], left.total_size) == (made[2:], 3)
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await list_uploads(files, as_user("bob"), page_token=first.next_page_token)


async def test_an_upload_that_is_a_file_says_which(files: FileServiceStub, as_user: Any) -> None:
    made = await create(files, as_user("ann"))
    stored = await go_on(files, as_user("ann"), made.id, chunks(DATA))
    now = await get(files, as_user("ann"), made.id)
    assert (now.state, now.file_id) == (pb2.UPLOAD_STATE_STORED, stored.id)
    assert now.persisted_size == len(DATA)
    assert not now.HasField("expire_time")


async def test_a_cancelled_upload_is_gone_for_good(files: FileServiceStub, as_user: Any) -> None:
    ann, request_id = as_user("ann"), str(uuid4())
    made = await create(files, ann, request_id=request_id)
    await cancel(files, ann, made.id)
    for call in (get, cancel, go_on):
        with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
            await call(files, ann, made.id)
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await create(files, ann, request_id=request_id)
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await upload(files, ann, [named(request_id), *chunks(DATA), finish()])


def named(request_id: str) -> pb2.UploadFileRequest:
    return pb2.UploadFileRequest(start=pb2.UploadStart(filename="notes.bin", request_id=request_id))


async def test_an_upload_that_is_a_file_cannot_be_cancelled(files: FileServiceStub, as_user: Any) -> None:
    made = await create(files, as_user("ann"))
    await go_on(files, as_user("ann"), made.id, chunks(DATA))
    with raises_status(grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_FINISHED"):
        await cancel(files, as_user("ann"), made.id)
    assert (await get(files, as_user("ann"), made.id)).state == pb2.UPLOAD_STATE_STORED


@pytest.mark.parametrize("then", ["more", "finish"])
async def test_who_still_sends_to_a_cancelled_upload_is_told(
    files: FileServiceStub, as_user: Any, behind: Behind, then: str
) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    sending = Sending(files, ann, [resume(made.id), *chunks(DATA)])
    await until_kept(files, ann, made.id, 2 * PART)
    await cancel(files, ann, made.id)
    sending.send(*([chunk(len(DATA), bytes(PART)), finish()] if then == "more" else [finish()]))
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await sending.answer()
    assert await behind.count("files") == 0


async def test_an_upload_that_expired_is_gone_and_one_that_makes_progress_is_not(
    serve_files: Any, as_user: Any, settings: Any, behind: Behind
) -> None:
    files, ann = await serve_files(), as_user("ann")
    left, goes_on = await create(files, ann), await create(files, ann)
    await behind.execute("UPDATE file.uploads SET expire_time = now() - interval '1 second'")
    sending = Sending(files, ann, [resume(goes_on.id), *chunks(DATA)])
    await until_kept(files, ann, goes_on.id, 2 * PART)
    async with open_file_jobs(settings(FileJobSettings)) as jobs:
        for job in jobs:
            if job.cron:
                await job.run()
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await get(files, ann, left.id)
    with raises_status(NOT_FOUND, "UPLOAD_NOT_FOUND"):
        await go_on(files, ann, left.id)
    sending.send(finish())
    assert (await sending.answer()).size_bytes == len(DATA)


async def test_every_part_that_is_kept_puts_the_expiry_off(serve_files: Any, as_user: Any) -> None:
    files, ann = await serve_files(file_upload_expiry=600), as_user("ann")
    sending = Sending(files, ann, [named_start()])
    uploads: list[pb2.Upload] = []

    async def has_begun() -> bool:
        uploads[:] = (await list_uploads(files, ann)).uploads
        return bool(uploads)

    await eventually(has_begun)
    expiries = [uploads[0].expire_time.ToDatetime()]
    for n in range(1, 3):
        sending.send(*chunks(DATA[: n * PART], PART, behind=(n - 1) * PART))
        await until_kept(files, ann, uploads[0].id, n * PART)
        expiries.append((await get(files, ann, uploads[0].id)).expire_time.ToDatetime())
    assert expiries == sorted(set(expiries))
    await sending.cut()
