"""Uploads that were cut and go on: where they were, whole, and with one writer at a time."""

import asyncio
import hashlib
from itertools import pairwise
from typing import Any
from uuid import uuid4

import google_crc32c
import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.kit.errors import DatabaseUnavailable
from tests.file.faulty_store import Faults, inject
from tests.file.resuming import Sending, create, get, go_on, list_uploads, send_and_cut, until_kept
from tests.file.steps import (
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
    upload,
)
from tests.support import detail, raises_status, status_of

ABORTED = grpc.StatusCode.ABORTED
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
DATA = some_bytes(3 * PART + 1000)
OTHER_DATA = some_bytes(3 * PART + 1000, seed=2)
SHA256 = hashlib.sha256(DATA).digest()


async def metadata_of(failing: Any) -> dict[str, str]:
    """What the status of a call that fails says besides its reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await failing
    info = detail(status_of(caught.value), details_pb2.ErrorInfo)
    assert info is not None
    return {"reason": info.reason, **info.metadata}


async def must_be_whole(files: FileServiceStub, metadata: Any, stored: pb2.File, data: bytes = DATA) -> None:
    assert (stored.size_bytes, stored.sha256) == (len(data), hashlib.sha256(data).digest())
    assert stored.crc32c == google_crc32c.value(data)
    assert (await download(files, metadata, stored.id))[1] == data


async def test_a_cut_upload_goes_on_where_it_was(files: FileServiceStub, as_user: Any, behind: Behind) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    kept = 2 * PART + 500
    await send_and_cut(files, ann, made.id, chunks(DATA[:kept], kept), kept)
    assert (await get(files, ann, made.id)).persisted_size == kept, "the tail is kept, too"
    assert await list_ids(files, ann) == []
    await must_be_whole(files, ann, await go_on(files, ann, made.id, chunks(DATA, behind=kept)))
    assert sum(part.stat().st_size for part in behind.parts()) == len(DATA)


async def test_a_start_with_the_same_request_id_goes_on_with_the_upload(files: FileServiceStub, as_user: Any) -> None:
    ann, first = as_user("ann"), start(request_id=str(uuid4()), size_bytes=len(DATA))
    with raises_status(INVALID_ARGUMENT, "UPLOAD_INCOMPLETE"):
        await upload(files, ann, [first, *chunks(DATA[: PART + 7])])
    stored = await upload(files, ann, [first, *chunks(DATA, behind=PART + 7), finish(sha256=SHA256)])
    await must_be_whole(files, ann, stored)
    assert await list_ids(files, ann) == [stored.id]


async def test_a_stream_that_ends_without_finish_tells_what_is_kept(files: FileServiceStub, as_user: Any) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    for size in (0, 10, PART, 2 * PART + 10, len(DATA)):
        sent = chunks(DATA[:size], behind=(await get(files, ann, made.id)).persisted_size)
        told = await metadata_of(upload(files, ann, [resume(made.id), *sent]))
        assert told == {"reason": "UPLOAD_INCOMPLETE", "persisted_size": str(size)}
        assert (await get(files, ann, made.id)).persisted_size == size
    await must_be_whole(files, ann, await go_on(files, ann, made.id))


async def test_an_upload_without_a_name_tells_of_nothing_that_is_kept(files: FileServiceStub, as_user: Any) -> None:
    told = await metadata_of(upload(files, as_user("ann"), [start(), *chunks(DATA)]))
    assert told == {"reason": "UPLOAD_INCOMPLETE"}


async def test_an_empty_upload_can_be_finished(files: FileServiceStub, as_user: Any) -> None:
    made = await create(files, as_user("ann"), size_bytes=0)
    await must_be_whole(files, as_user("ann"), await go_on(files, as_user("ann"), made.id), b"")


async def test_what_is_sent_from_the_beginning_again_is_passed_over(files: FileServiceStub, as_user: Any) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    for size in (PART + 10, 2 * PART + 20):
        await metadata_of(upload(files, ann, [resume(made.id), *chunks(DATA[:size], 7000)]))
        assert (await get(files, ann, made.id)).persisted_size == size
    await must_be_whole(files, ann, await go_on(files, ann, made.id, chunks(DATA, 9000)))


async def test_a_whole_part_that_comes_again_must_be_the_same(
    files: FileServiceStub, as_user: Any, subtests: pytest.Subtests
) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    await metadata_of(upload(files, ann, [resume(made.id), *chunks(DATA)]))
    for changed in (0, PART - 1, PART, 3 * PART - 1, 3 * PART, len(DATA) - 1):
        with subtests.test(f"byte {changed}"):
            other = bytearray(DATA)
            other[changed] ^= 1
            with raises_status(INVALID_ARGUMENT, "CONTENT_MISMATCH"):
                await go_on(files, ann, made.id, chunks(bytes(other), 7000))
    assert (await get(files, ann, made.id)).persisted_size == len(DATA)
    await must_be_whole(files, ann, await go_on(files, ann, made.id, chunks(DATA, behind=PART + 1)))


async def test_a_hole_is_refused_and_told_where_to_go_on(files: FileServiceStub, as_user: Any) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    await metadata_of(upload(files, ann, [resume(made.id), *chunks(DATA[:PART])]))
    with raises_status(grpc.StatusCode.OUT_OF_RANGE, "OFFSET_MISMATCH"):
        await go_on(files, ann, made.id, [chunk(PART + 1, b"x")])
    told = await metadata_of(go_on(files, ann, made.id, [chunk(PART + 1, b"x")]))
    assert told == {"reason": "OFFSET_MISMATCH", "expected_offset": str(PART)}


async def test_a_wrong_finish_can_be_made_right(files: FileServiceStub, as_user: Any) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    with raises_status(INVALID_ARGUMENT, "CHECKSUM_MISMATCH"):
        await upload(files, ann, [resume(made.id), *chunks(DATA), finish(sha256=bytes(32))])
    with raises_status(INVALID_ARGUMENT, "SIZE_MISMATCH"):
        await upload(files, ann, [resume(made.id), finish(size_bytes=1)])
    stored = await upload(files, ann, [resume(made.id), finish(sha256=SHA256, size_bytes=len(DATA))])
    await must_be_whole(files, ann, stored)


async def test_a_chunk_that_was_damaged_can_be_sent_again(files: FileServiceStub, as_user: Any) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    with raises_status(INVALID_ARGUMENT, "CHUNK_CORRUPT"):
        await go_on(files, ann, made.id, [*chunks(DATA[:PART]), chunk(PART, b"abc", crc32c=1)])
    await must_be_whole(files, ann, await go_on(files, ann, made.id, chunks(DATA, behind=PART)))


async def test_what_was_declared_holds_however_often_it_was_cut(
    files: FileServiceStub, as_user: Any, subtests: pytest.Subtests
) -> None:
    ann = as_user("ann")
    for declared, reason in (
        ({"size_bytes": len(DATA) + 1}, "SIZE_MISMATCH"),
        ({"size_bytes": len(DATA) - 1}, "SIZE_MISMATCH"),
        ({"sha256": bytes(32)}, "CHECKSUM_MISMATCH"),
        ({"crc32c": 1}, "CHECKSUM_MISMATCH"),
    ):
        with subtests.test(str(declared)):
            made = await create(files, ann, **declared)
            await metadata_of(upload(files, ann, [resume(made.id), *chunks(DATA[:PART])]))
            with raises_status(INVALID_ARGUMENT, reason):
                await go_on(files, ann, made.id, chunks(DATA, behind=PART))
    made = await create(files, ann, size_bytes=len(DATA), sha256=SHA256, crc32c=google_crc32c.value(DATA))
    await metadata_of(upload(files, ann, [resume(made.id), *chunks(DATA[:PART])]))
    await must_be_whole(files, ann, await go_on(files, ann, made.id, chunks(DATA, behind=PART)))


async def test_an_upload_that_is_a_file_answers_with_it_and_changes_nothing(
    files: FileServiceStub, as_user: Any, behind: Behind
) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    stored = await go_on(files, ann, made.id, chunks(DATA))
    for requests in ([], chunks(DATA), chunks(DATA, behind=PART + 3)):
        assert await go_on(files, ann, made.id, requests) == stored
    right = finish(size_bytes=len(DATA), sha256=SHA256, crc32c=google_crc32c.value(DATA))
    assert await upload(files, ann, [resume(made.id), right]) == stored
    for wrong, reason in (
        (finish(sha256=bytes(32)), "CHECKSUM_MISMATCH"),
        (finish(crc32c=1), "CHECKSUM_MISMATCH"),
        (finish(size_bytes=1), "SIZE_MISMATCH"),
    ):
        with raises_status(INVALID_ARGUMENT, reason):
            await upload(files, ann, [resume(made.id), wrong])
    with raises_status(INVALID_ARGUMENT, "CONTENT_MISMATCH"):
        await go_on(files, ann, made.id, chunks(OTHER_DATA))
    with raises_status(INVALID_ARGUMENT, "SIZE_MISMATCH"):
        await go_on(files, ann, made.id, [chunk(len(DATA), b"x")])
    with raises_status(grpc.StatusCode.OUT_OF_RANGE, "OFFSET_MISMATCH"):
        await go_on(files, ann, made.id, [chunk(len(DATA) + 1, b"x")])
    assert (await behind.count("files"), len(behind.parts())) == (1, 4)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("then", ["more", "finish"])
async def test_who_resumes_last_has_the_upload(
    serve_files: Any, as_user: Any, behind: Behind, servers: int, then: str
) -> None:
    old = await serve_files()
    new = old if servers == 1 else await serve_files()
    ann, made = as_user("ann"), await create(old, as_user("ann"))
    first = Sending(old, ann, [resume(made.id), *chunks(DATA[: 2 * PART])])
    await until_kept(old, ann, made.id, 2 * PART)
    second = Sending(new, ann, [resume(made.id), chunk(2 * PART, DATA[2 * PART :])])

    async def is_taken_over() -> bool:
        return bool((await behind.execute("SELECT epoch FROM file.uploads")).scalar_one() == 2)

    await eventually(is_taken_over)
    first.send(*(chunks(OTHER_DATA, PART, behind=2 * PART) if then == "more" else []), finish())
    with raises_status(ABORTED, "UPLOAD_TAKEN_OVER"):
        await first.answer()
    second.send(finish())
    await must_be_whole(new, ann, await second.answer())
    assert await behind.count("files") == 1


async def test_who_lost_an_upload_to_another_process_hears_of_it_with_the_next_bytes(
    serve_files: Any, as_user: Any, behind: Behind
) -> None:
    old, new, ann = await serve_files(), await serve_files(), as_user("ann")
    made = await create(old, ann)
    sending = Sending(old, ann, [resume(made.id), chunk(0, DATA[:PART])])
    await eventually(lambda: len(behind.parts()) == 1)
    await metadata_of(upload(new, ann, [resume(made.id)]))
    await eventually(lambda: "mark-upload" not in {task.get_name() for task in asyncio.all_tasks()})
    sending.send(chunk(PART, b"and so on"))
    with raises_status(ABORTED, "UPLOAD_TAKEN_OVER"):
        await sending.answer()


async def test_an_upload_goes_on_in_other_processes_and_its_checksums_are_right(serve_files: Any, as_user: Any) -> None:
    servers, ann = [await serve_files(), await serve_files()], as_user("ann")
    data = some_bytes(9 * PART + 77)
    made = await create(servers[0], ann, size_bytes=len(data))
    cuts = [0, 1, PART, PART + 5, 4 * PART, 4 * PART + 1, 6 * PART, 9 * PART + 7]
    for n, (begin, end) in enumerate(pairwise(cuts)):
        told = await metadata_of(upload(servers[n % 2], ann, [resume(made.id), *chunks(data[:end], behind=begin)]))
        assert told["persisted_size"] == str(end)
    await must_be_whole(servers[0], ann, await go_on(servers[1], ann, made.id, chunks(data, behind=cuts[-1])), data)


async def test_other_bytes_where_nothing_was_kept_have_their_own_checksum(
    serve_files: Any, as_user: Any, monkeypatch: pytest.MonkeyPatch, behind: Behind
) -> None:
    """One process stores parts that it does not come to note; another one gets other bytes for them."""
    first, second, ann = await serve_files(), await serve_files(), as_user("ann")
    made = await create(first, ann)
    monkeypatch.setattr("services.file.domain.parts.MARK_AFTER", 60.0)
    sending = Sending(first, ann, [resume(made.id), chunk(0, DATA[:PART])])
    await eventually(lambda: len(behind.parts()) == 1)
    await metadata_of(upload(second, ann, [resume(made.id), *chunks(OTHER_DATA[: 2 * PART])]))
    await sending.cut()
    await must_be_whole(first, ann, await go_on(first, ann, made.id, chunks(OTHER_DATA, behind=2 * PART)), OTHER_DATA)


async def test_an_upload_goes_on_after_the_store_was_away(
    serve_files: Any, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = inject(monkeypatch, Faults())
    files, ann = await serve_files(), as_user("ann")
    made = await create(files, ann)
    await metadata_of(upload(files, ann, [resume(made.id), *chunks(DATA[:PART])]))
    for faults.failing, faults.failing_after in ((1.0, 0.0), (0.0, 1.0)):
        with raises_status(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            await go_on(files, ann, made.id, chunks(DATA, behind=PART))
        assert (await get(files, ann, made.id)).persisted_size == PART
    faults.stop()
    await must_be_whole(files, ann, await go_on(files, ann, made.id, chunks(DATA, behind=PART)))


async def test_an_upload_goes_on_after_the_database_was_away(
    files: FileServiceStub, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, made = as_user("ann"), await create(files, as_user("ann"))
    sending = Sending(files, ann, [resume(made.id), *chunks(DATA[:PART])])
    await until_kept(files, ann, made.id, PART)
    with monkeypatch.context() as away:
        away.setattr("services.kit.database.Scope.__aenter__", unreachable)
        sending.send(*chunks(DATA, behind=PART), finish())
        with raises_status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"):
            await sending.answer()
    at = (await get(files, ann, made.id)).persisted_size
    await must_be_whole(files, ann, await go_on(files, ann, made.id, chunks(DATA, behind=at)))


async def unreachable(*_: object) -> None:
    raise DatabaseUnavailable


async def test_an_upload_goes_on_with_parts_of_another_size(serve_files: Any, as_user: Any) -> None:
    files, ann = await serve_files(file_part_bytes=MIB), as_user("ann")
    made, data = await create(files, ann), some_bytes(3 * MIB + 5)
    sending = Sending(files, ann, [resume(made.id), *chunks(data[: 2 * MIB], MIB)])
    await until_kept(files, ann, made.id, 2 * MIB)
    others = await serve_files(file_part_bytes=PART)
    stored = await go_on(others, ann, made.id, chunks(data, MIB, behind=2 * MIB))
    await must_be_whole(others, ann, stored, data)
    await sending.cut()
    assert (await list_uploads(files, ann)).total_size == 0


async def test_many_clients_that_take_an_upload_from_each_other_make_one_file(
    serve_files: Any, as_user: Any, behind: Behind
) -> None:
    servers, ann = [await serve_files(), await serve_files()], as_user("ann")
    first = start(request_id=str(uuid4()))

    async def send(n: int) -> pb2.File | None:
        try:
            return await upload(servers[n % 2], ann, [first, *chunks(DATA), finish(sha256=SHA256)])
        except grpc.aio.AioRpcError as error:
            if error.code() == ABORTED:
                return None
            raise

    stored = [file for file in await asyncio.gather(*(send(n) for n in range(10))) if file is not None]
    stored.append(await upload(servers[0], ann, [first, finish()]))
    assert len({file.id for file in stored}) == 1
    await must_be_whole(servers[1], ann, stored[0])
    assert await behind.count("files") == 1
