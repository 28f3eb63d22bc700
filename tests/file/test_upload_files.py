"""UploadFiles: several files on one stream, and each for itself."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import chain, zip_longest
from typing import Any

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.settings import FileSettings
from services.file.wiring import open_file
from tests.file.steps import (
    DEADLINE,
    MIB,
    PART,
    Behind,
    chunk,
    chunks,
    download,
    eventually,
    finish,
    keyed,
    list_ids,
    some_bytes,
    start,
    whole,
)
from tests.support import raises_status, reason_of

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
DATA = some_bytes(2 * PART + 1000)


def all_of(key: str, requests: Iterable[pb2.UploadFileRequest]) -> list[pb2.UploadFilesRequest]:
    return [keyed(key, request) for request in requests]


def interleaved(*uploads: list[pb2.UploadFilesRequest]) -> list[pb2.UploadFilesRequest]:
    return [request for turn in zip_longest(*uploads) for request in turn if request is not None]


async def outcomes(
    files: FileServiceStub, metadata: Any, requests: Iterable[pb2.UploadFilesRequest]
) -> list[tuple[str, str]]:
    """The answers: each key with its reason, or `ok`."""
    call = files.UploadFiles(iter(list(requests)), metadata=metadata, timeout=DEADLINE)
    return [
        (response.key, "ok" if response.HasField("completed") else reason_of(response.rejected))
        async for response in call
    ]


async def test_of_three_interleaved_files_only_the_one_that_is_too_large_is_rejected(
    serve_files: Any, as_user: Any, behind: Behind
) -> None:
    files, ann = await serve_files(file_max_bytes=MIB), as_user("ann")
    contents = {"a": some_bytes(MIB, 1), "b": some_bytes(MIB + 1, 2), "c": some_bytes(MIB - 1, 3)}
    undeclared = {key: [start(key), *chunks(data), finish()] for key, data in contents.items()}
    requests = interleaved(*(all_of(key, requests) for key, requests in undeclared.items()))
    call = files.UploadFiles(iter(requests), metadata=ann, timeout=DEADLINE)
    answers = {response.key: response async for response in call}
    assert {key: answer.WhichOneof("outcome") for key, answer in answers.items()} == {
        "a": "completed",
        "b": "rejected",
        "c": "completed",
    }
    assert reason_of(answers["b"].rejected) == "FILE_TOO_LARGE"
    assert answers["b"].rejected.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    for key in ("a", "c"):
        assert (await download(files, ann, answers[key].completed.id))[1] == contents[key]
    assert sum(part.stat().st_size for part in behind.parts()) == 2 * MIB - 1


async def test_each_file_is_answered_while_the_stream_goes_on(files: FileServiceStub, as_user: Any) -> None:
    call: Any = files.UploadFiles(metadata=as_user("ann"), timeout=DEADLINE)
    ids = []
    for key in ("first", "second"):
        for request in all_of(key, whole(DATA)):
            await call.write(request)
        answer = await call.read()
        assert (answer.key, answer.WhichOneof("outcome")) == (key, "completed")
        ids.append(answer.completed.id)
        assert await list_ids(files, as_user("ann")) == ids[::-1]
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_what_still_comes_of_a_rejected_file_is_passed_over_until_it_starts_anew(
    files: FileServiceStub, as_user: Any
) -> None:
    corrupt = [start(), chunk(0, b"abc", crc32c=1), chunk(3, b"def"), finish(), finish(sha256=b"not valid either")]
    requests = chain(all_of("a", corrupt), all_of("b", whole(DATA)), all_of("a", whole(DATA)))
    first, *others = await outcomes(files, as_user("ann"), requests)
    assert first == ("a", "CHUNK_CORRUPT")
    assert sorted(others) == [("a", "ok"), ("b", "ok")]  # Whichever is stored first.


async def test_a_key_can_be_used_again_once_it_was_answered(files: FileServiceStub, as_user: Any) -> None:
    requests = all_of("a", [*whole(DATA), *whole(b"another")])
    assert await outcomes(files, as_user("ann"), requests) == [("a", "ok"), ("a", "ok")]


REJECTED: dict[str, tuple[list[pb2.UploadFileRequest], list[str]]] = {
    "chunks without a start": ([*chunks(DATA), finish()], ["UPLOAD_OUT_OF_TURN"]),
    "a second start": ([start(), *chunks(DATA), start(), chunk(0, b"x"), finish()], ["UPLOAD_OUT_OF_TURN"]),
    "more after the end": ([*whole(DATA), chunk(len(DATA), b"x"), finish()], ["ok", "UPLOAD_OUT_OF_TURN"]),
    "no finish": ([start(), *chunks(DATA)], ["UPLOAD_INCOMPLETE"]),
    "an invalid start": ([start("x" * 256), *chunks(DATA), finish()], ["VALIDATION_FAILED"]),
    "an invalid chunk": ([start(), chunk(0, b""), *chunks(DATA), finish()], ["VALIDATION_FAILED"]),
    "a wrong offset": ([start(), chunk(7, b"x"), finish()], ["OFFSET_MISMATCH"]),
    "a wrong size": ([start(), chunk(0, b"x"), finish(size_bytes=2)], ["SIZE_MISMATCH"]),
    "a wrong SHA-256": ([start(), *chunks(DATA), finish(sha256=bytes(32))], ["CHECKSUM_MISMATCH"]),
}


async def test_a_bad_file_is_rejected_and_another_on_the_stream_is_stored(
    files: FileServiceStub, as_user: Any, behind: Behind, subtests: pytest.Subtests
) -> None:
    for bad, (requests, expected) in REJECTED.items():
        with subtests.test(bad):
            parts_before = len(behind.parts())
            both = interleaved(all_of("bad", requests), all_of("good", whole(DATA)))
            answers = await outcomes(files, as_user("ann"), both)
            assert [outcome for key, outcome in answers if key == "bad"] == expected
            assert [outcome for key, outcome in answers if key == "good"] == ["ok"]
            stored = [outcome for _, outcome in answers].count("ok")
            assert len(behind.parts()) - parts_before == 3 * stored


async def test_more_files_at_a_time_than_allowed_are_rejected_and_the_others_go_on(
    serve_files: Any, as_user: Any
) -> None:
    files = await serve_files(file_max_open_uploads=2)
    uploads = [all_of(key, whole(DATA)) for key in ("a", "b", "c")]
    assert sorted(await outcomes(files, as_user("ann"), interleaved(*uploads))) == [
        ("a", "ok"),
        ("b", "ok"),
        ("c", "TOO_MANY_OPEN_UPLOADS"),
    ]


async def test_more_files_than_the_process_has_memory_for_are_rejected(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(file_max_uploads=1)
    uploads = interleaved(all_of("a", whole(DATA)), all_of("b", whole(DATA)))
    assert sorted(await outcomes(files, as_user("ann"), uploads)) == [("a", "ok"), ("b", "OVERLOADED")]
    assert await outcomes(files, as_user("ann"), all_of("b", whole(DATA))) == [("b", "ok")]


@pytest.mark.parametrize("key", ["", "k" * 65, "a\0b"])
async def test_a_key_that_is_not_valid_ends_the_stream_and_leaves_nothing(
    files: FileServiceStub, as_user: Any, behind: Behind, key: str
) -> None:
    requests = [*all_of("a", [start(), *chunks(DATA)]), keyed(key, start())]
    with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["key"]):
        await outcomes(files, as_user("ann"), requests)
    assert await behind.is_empty()


async def test_garbage_ends_the_stream_and_leaves_nothing(
    serve: Any, settings: Any, as_user: Any, behind: Behind
) -> None:
    channel = await serve(open_file, settings(FileSettings, file_port=0, file_part_bytes=PART))
    raw = channel.stream_stream("/parley.file.v1.FileService/UploadFiles")
    good = [request.SerializeToString() for request in all_of("a", [start(), *chunks(DATA)])]
    with raises_status(INVALID_ARGUMENT, "REQUEST_MALFORMED"):
        async for _ in raw(iter([*good, b"\xff\xff garbage"]), metadata=as_user("ann"), timeout=DEADLINE):
            pass
    assert await behind.is_empty()


async def test_a_cut_stream_leaves_what_was_finished_and_nothing_else(
    files: FileServiceStub, as_user: Any, behind: Behind
) -> None:
    async def three() -> AsyncIterator[pb2.UploadFilesRequest]:
        for request in interleaved(all_of("whole", whole(DATA)), all_of("cut", whole(DATA)[:-1])):
            yield request
        await asyncio.Event().wait()

    call: Any = files.UploadFiles(three(), metadata=as_user("ann"), timeout=DEADLINE)
    stored = await call.read()
    await eventually(lambda: len(behind.parts()) == 5)
    call.cancel()
    await eventually(lambda: len(behind.parts()) == 3)
    assert await list_ids(files, as_user("ann")) == [stored.completed.id]


async def test_a_stream_that_falls_silent_is_ended(serve_files: Any, as_user: Any, behind: Behind) -> None:
    files = await serve_files(file_idle_timeout=0.3)
    call: Any = files.UploadFiles(metadata=as_user("ann"), timeout=DEADLINE)
    for request in all_of("a", [start(), *chunks(DATA)]):
        await call.write(request)
    with raises_status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
        await call.read()
    assert await behind.is_empty()
