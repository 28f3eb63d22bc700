"""UploadFile: what goes in is there whole, and what is not right leaves nothing."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import google_crc32c
import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.content_types import SNIFFED_BYTES
from tests.file.steps import (
    DEADLINE,
    KIB,
    MIB,
    PART,
    Behind,
    chunk,
    chunks,
    download,
    eventually,
    finish,
    list_ids,
    resume,
    some_bytes,
    start,
    then_wait,
    upload,
    whole,
)
from tests.support import detail, raises_status, status_of

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
NOT_FOUND = grpc.StatusCode.NOT_FOUND
DATA = some_bytes(3 * PART + 1000)
OTHER_DATA = some_bytes(3 * PART + 1000, seed=2)


async def test_nine_mebibytes_come_down_as_they_went_up(serve_files: Any, as_user: Any, behind: Behind) -> None:
    files, data = await serve_files(file_part_bytes=8 * MIB), some_bytes(9 * MIB)
    stored = await upload(files, as_user("ann"), whole(data, chunk_bytes=MIB))
    _, received = await download(files, as_user("ann"), stored.id)
    assert received == data
    assert [part.stat().st_size for part in behind.parts()] == [8 * MIB, MIB]


async def test_a_file_of_any_size_is_kept_in_full_parts(
    files: FileServiceStub, as_user: Any, behind: Behind, subtests: pytest.Subtests
) -> None:
    for size in (0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 7):
        with subtests.test(f"{size} bytes"):
            data, parts_before = some_bytes(size), len(behind.parts())
            stored = await upload(files, as_user("ann"), whole(data, chunk_bytes=30 * KIB))
            _, received = await download(files, as_user("ann"), stored.id)
            assert received == data
            assert len(behind.parts()) - parts_before == -(-size // PART)


async def test_the_answer_describes_the_file(files: FileServiceStub, as_user: Any) -> None:
    stored = await upload(files, as_user("ann"), whole(DATA, "minutes.txt"))
    assert stored.user_id == str(as_user.id("ann"))
    assert (stored.filename, stored.content_type) == ("minutes.txt", "application/x-notes")
    assert (stored.size_bytes, stored.sha256) == (len(DATA), hashlib.sha256(DATA).digest())
    assert stored.create_time.seconds > 0


async def test_nothing_need_be_declared(files: FileServiceStub, as_user: Any) -> None:
    bare = pb2.UploadFileRequest(chunk=pb2.UploadChunk(data=DATA))
    stored = await upload(files, as_user("ann"), [start(), bare, finish()])
    assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_bytes_that_come_again_are_passed_over(files: FileServiceStub, as_user: Any) -> None:
    twice = [part for piece in chunks(DATA) for part in (piece, piece)]
    for requests in (twice, [*chunks(DATA), *chunks(DATA)], [*chunks(DATA, PART), *chunks(DATA, 7000)]):
        stored = await upload(files, as_user("ann"), [start(), *requests, finish(size_bytes=len(DATA))])
        assert (await download(files, as_user("ann"), stored.id))[1] == DATA


async def test_everything_that_can_be_declared_is_kept(files: FileServiceStub, as_user: Any) -> None:
    sums = {"sha256": hashlib.sha256(DATA).digest(), "crc32c": google_crc32c.value(DATA), "size_bytes": len(DATA)}
    labels = {"project": "Æsir", "a.b-c_1": ""}
    stored = await upload(files, as_user("ann"), [start(**sums, labels=labels), *chunks(DATA), finish(**sums)])
    assert (stored.sha256, stored.crc32c, stored.size_bytes) == tuple(sums.values())
    assert dict(stored.labels) == labels
    assert (await files.GetFile(pb2.GetFileRequest(id=stored.id), metadata=as_user("ann"))).file == stored


@pytest.mark.parametrize("request_id", ["", "0191d0a4-7c1e-7000-8000-000000000001"])
async def test_a_files_first_bytes_are_looked_at_however_they_are_cut(
    files: FileServiceStub, as_user: Any, monkeypatch: pytest.MonkeyPatch, request_id: str
) -> None:
    monkeypatch.setattr("services.file.domain.digest.sniff", lambda head: hashlib.sha256(head).hexdigest())
    cut = [chunk(0, DATA[:1]), chunk(1, DATA[1:3]), *chunks(DATA, behind=3)]
    stored = await upload(files, as_user("ann"), [start(request_id=request_id), *cut, finish()])
    assert stored.sniffed_content_type == hashlib.sha256(DATA[:SNIFFED_BYTES]).hexdigest()
    small = await upload(files, as_user("ann"), [start(), *cut[:2], chunk(3, DATA[3:PART]), finish()])
    assert small.sniffed_content_type == stored.sniffed_content_type


FILENAMES = [
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    "C:\\boot.ini",
    "invoice\u202efdp.exe",
    "ä" * 255,
    "a\nb\r\t",
    "💾",
]


async def test_a_filename_is_data_and_never_a_path(files: FileServiceStub, as_user: Any, behind: Behind) -> None:
    for name in FILENAMES:
        stored = await upload(files, as_user("ann"), whole(b"x", name))
        assert (await files.GetFile(pb2.GetFileRequest(id=stored.id), metadata=as_user("ann"))).file.filename == name
    parts = behind.parts()
    assert len(parts) == len(FILENAMES)
    assert {part.parent.parent for part in parts} == {behind.folder}
    assert set("".join(part.name for part in parts)) <= set("0123456789abcdef")


async def test_the_limit_itself_is_allowed(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(file_max_bytes=len(DATA))
    assert (await upload(files, as_user("ann"), whole(DATA))).size_bytes == len(DATA)


BAD: dict[str, tuple[list[pb2.UploadFileRequest], grpc.StatusCode, str]] = {
    "an empty stream": ([], INVALID_ARGUMENT, "UPLOAD_INCOMPLETE"),
    "no finish": ([start(), *chunks(DATA)], INVALID_ARGUMENT, "UPLOAD_INCOMPLETE"),
    "a chunk first": ([*chunks(DATA), finish()], INVALID_ARGUMENT, "UPLOAD_OUT_OF_TURN"),
    "finish first": ([finish()], INVALID_ARGUMENT, "UPLOAD_OUT_OF_TURN"),
    "a second start": ([start(), *chunks(DATA), start(), finish()], INVALID_ARGUMENT, "UPLOAD_OUT_OF_TURN"),
    "a chunk after finish": ([*whole(DATA), chunk(len(DATA), b"x")], INVALID_ARGUMENT, "UPLOAD_OUT_OF_TURN"),
    "finish twice": ([*whole(DATA), finish()], INVALID_ARGUMENT, "UPLOAD_OUT_OF_TURN"),
    "a wrong crc32c": (
        [start(), *chunks(DATA), chunk(len(DATA), b"abc", crc32c=1), finish()],
        INVALID_ARGUMENT,
        "CHUNK_CORRUPT",
    ),
    "a hole": ([start(), *chunks(DATA), chunk(len(DATA) + 1, b"x"), finish()], OUT_OF_RANGE, "OFFSET_MISMATCH"),
    "other bytes where some were sent": (
        [start(), *chunks(DATA), *chunks(OTHER_DATA), finish()],
        INVALID_ARGUMENT,
        "CONTENT_MISMATCH",
    ),
    "other bytes in what is not yet stored": (
        [start(), chunk(0, b"abcdef"), chunk(2, b"cxef"), finish()],
        INVALID_ARGUMENT,
        "CONTENT_MISMATCH",
    ),
    "fewer bytes than declared at the start": (
        [start(size_bytes=len(DATA) + 1), *chunks(DATA), finish()],
        INVALID_ARGUMENT,
        "SIZE_MISMATCH",
    ),
    "more bytes than declared at the start": (
        [start(size_bytes=len(DATA) - 1), *chunks(DATA), finish()],
        INVALID_ARGUMENT,
        "SIZE_MISMATCH",
    ),
    "no bytes where some were declared": ([start(size_bytes=1), finish()], INVALID_ARGUMENT, "SIZE_MISMATCH"),
    "bytes where none were declared": (
        [start(size_bytes=0), *chunks(DATA), finish()],
        INVALID_ARGUMENT,
        "SIZE_MISMATCH",
    ),
    "another size than declared at the end": (
        [start(), *chunks(DATA), finish(size_bytes=len(DATA) - 1)],
        INVALID_ARGUMENT,
        "SIZE_MISMATCH",
    ),
    "another SHA-256": (
        [start(), *chunks(DATA), finish(sha256=hashlib.sha256(b"other").digest())],
        INVALID_ARGUMENT,
        "CHECKSUM_MISMATCH",
    ),
    "another SHA-256 than declared at the start": (
        [start(sha256=hashlib.sha256(b"other").digest()), *chunks(DATA), finish()],
        INVALID_ARGUMENT,
        "CHECKSUM_MISMATCH",
    ),
    "another crc32c": ([start(), *chunks(DATA), finish(crc32c=1)], INVALID_ARGUMENT, "CHECKSUM_MISMATCH"),
    "another crc32c than declared at the start": (
        [start(crc32c=0), *chunks(DATA), finish()],
        INVALID_ARGUMENT,
        "CHECKSUM_MISMATCH",
    ),
    "a resume in the middle": (
        [start(), *chunks(DATA), resume(str(UUID(int=7))), finish()],
        INVALID_ARGUMENT,
        "UPLOAD_OUT_OF_TURN",
    ),
    "a resume of nothing": ([resume(str(UUID(int=7))), *chunks(DATA), finish()], NOT_FOUND, "UPLOAD_NOT_FOUND"),
    "too many bytes": (
        [start(), *chunks(some_bytes(MIB + 1)), finish()],
        RESOURCE_EXHAUSTED,
        "FILE_TOO_LARGE",
    ),
    "too large a declared size": ([start(size_bytes=MIB + 1)], RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"),
}


async def test_a_bad_upload_is_refused_and_leaves_nothing(
    serve_files: Any, as_user: Any, behind: Behind, subtests: pytest.Subtests
) -> None:
    files = await serve_files(file_max_bytes=MIB)
    for bad, (requests, code, reason) in BAD.items():
        with subtests.test(bad):
            with raises_status(code, reason):
                await upload(files, as_user("ann"), requests)
            assert await list_ids(files, as_user("ann")) == []
            assert await behind.is_empty()


RULE_BREAKERS = [
    (start(""), "start.filename"),
    (start("ä" * 256), "start.filename"),
    (start("a\0b"), "start.filename"),
    (start(content_type="x" * 256), "start.content_type"),
    (start(size_bytes=-1), "start.size_bytes"),
    (start(sha256=b"short"), "start.sha256"),
    (start(request_id="seven"), "start.request_id"),
    (start(labels={"Upper": "x"}), "start.labels[Upper]"),
    (start(labels={"a": "x" * 256}), "start.labels[a]"),
    (start(labels={f"n{n}": "" for n in range(65)}), "start.labels"),
    (resume("seven"), "resume.upload_id"),
    (chunk(-1, b"x"), "chunk.offset"),
    (chunk(0, b""), "chunk.data"),
    (chunk(0, bytes(2 * MIB + 1)), "chunk.data"),
    (finish(size_bytes=-1), "finish.size_bytes"),
    (finish(sha256=b"short"), "finish.sha256"),
    (pb2.UploadFileRequest(), "step"),
]


async def test_a_message_that_breaks_a_rule_is_refused_and_leaves_nothing(
    files: FileServiceStub, as_user: Any, behind: Behind, subtests: pytest.Subtests
) -> None:
    for number, (request, field) in enumerate(RULE_BREAKERS):
        with subtests.test(f"{number}: {field}"):
            with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
                await upload(files, as_user("ann"), [start(), *chunks(DATA), request])
            assert await behind.is_empty()


async def test_a_wrong_offset_is_told_the_right_one(files: FileServiceStub, as_user: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(files, as_user("ann"), [start(), chunk(0, b"12345"), chunk(6, b"7"), finish()])
    info = detail(status_of(caught.value), details_pb2.ErrorInfo)
    assert info is not None
    assert info.metadata["expected_offset"] == "5"


async def test_too_large_a_file_is_told_the_limit(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(file_max_bytes=1000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(files, as_user("ann"), [start(size_bytes=1001)])
    quota = detail(status_of(caught.value), details_pb2.QuotaFailure)
    assert quota is not None
    assert "1000 bytes" in quota.violations[0].description


async def by_iterator(files: FileServiceStub, metadata: Any, requests: list[pb2.UploadFileRequest]) -> None:
    await files.UploadFile(iter(requests), metadata=metadata, timeout=DEADLINE)


async def by_async_generator(files: FileServiceStub, metadata: Any, requests: list[pb2.UploadFileRequest]) -> None:
    async def generate() -> Any:
        for request in requests:
            yield request

    await files.UploadFile(generate(), metadata=metadata, timeout=DEADLINE)


async def by_write(files: FileServiceStub, metadata: Any, requests: list[pb2.UploadFileRequest]) -> None:
    call: Any = files.UploadFile(metadata=metadata, timeout=DEADLINE)
    for request in requests:
        await call.write(request)
    await call.done_writing()
    await call


@pytest.mark.parametrize("send", [by_iterator, by_async_generator, by_write])
async def test_a_client_that_goes_on_sending_sees_why_it_was_refused(
    files: FileServiceStub, as_user: Any, send: Callable[..., Awaitable[None]]
) -> None:
    far_too_much = chunks(some_bytes(24 * MIB), MIB)
    for _ in range(3):
        with raises_status(RESOURCE_EXHAUSTED, "FILE_TOO_LARGE"):
            await send(files, as_user("ann"), [start(size_bytes=24 * MIB), *far_too_much, finish()])


async def test_a_cut_upload_leaves_nothing(files: FileServiceStub, as_user: Any, behind: Behind) -> None:
    call = files.UploadFile(then_wait([start(), *chunks(DATA)], asyncio.Event()), metadata=as_user("ann"))
    await eventually(lambda: len(behind.parts()) == 3)
    assert await list_ids(files, as_user("ann")) == []
    call.cancel()
    await eventually(behind.is_empty)
    assert await list_ids(files, as_user("ann")) == []


async def test_an_upload_needs_a_token(files: FileServiceStub, behind: Behind) -> None:
    with raises_status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"):
        await upload(files, (), whole(DATA))
    assert await behind.is_empty()
