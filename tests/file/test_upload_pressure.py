"""Uploads that share little memory: nobody keeps the others from going on, and what went wrong leaves nothing taken."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.domain.digest import Digest
from services.file.store import Folder, PartStore
from tests.file.resuming import create, go_on, send_and_cut
from tests.file.steps import (
    DEADLINE,
    KIB,
    MIB,
    PART,
    Metadata,
    chunk,
    chunks,
    download,
    eventually,
    finish,
    keyed,
    list_ids,
    some_bytes,
    start,
    upload,
    whole,
)
from tests.support import raises_status, reason_of

SMALL_MEMORY = {"file_upload_memory_bytes": MIB, "file_part_bytes": 256 * KIB}


class Stream:
    """An UploadFiles stream that a test goes on with as it likes."""

    def __init__(self, files: FileServiceStub, metadata: Metadata) -> None:
        self.call: Any = files.UploadFiles(metadata=metadata, timeout=3 * DEADLINE)

    async def send(self, key: str, *requests: pb2.UploadFileRequest) -> None:
        for request in requests:
            await self.call.write(keyed(key, request))

    async def outcomes(self) -> dict[str, str]:
        """Half-close, and what became of each file."""
        await self.call.done_writing()
        outcomes = {}
        while (answer := await self.call.read()) is not grpc.aio.EOF:
            if not answer.HasField("ack"):
                outcomes[answer.key] = "ok" if answer.HasField("completed") else reason_of(answer.rejected)
        return outcomes


class Gate:
    """What the store writes waits until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._opened = threading.Event()
        self.waiting = 0
        put = Folder.put

        def put_later(store: Folder, key: str, data: Any) -> None:
            self.waiting += 1
            self._opened.wait(DEADLINE)
            put(store, key, data)

        monkeypatch.setattr(Folder, "put", put_later)

    def has(self, number: int) -> bool:
        """Whether so many wait, or have waited."""
        return self.waiting >= number

    def open(self) -> None:
        """Let all of them through."""
        self._opened.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, in_a_folder: None) -> Iterator[Gate]:  # noqa: ARG001  # it is a folder's
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


async def assert_all_memory_is_there(files: FileServiceStub, metadata: Metadata) -> None:
    """A chunk that is larger than all that could be missing gets through."""
    data = some_bytes(MIB, seed=9)
    stored = await upload(files, metadata, [start("large"), chunk(0, data), finish()])
    assert (await download(files, metadata, stored.id))[1] == data


async def test_streams_that_wait_for_memory_with_some_in_hand_stop_nobody(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(**SMALL_MEMORY)
    streams = [Stream(files, as_user("ann")) for _ in range(2)]
    for stream, keys, size in ((streams[0], 7, 112 * KIB), (streams[1], 5, 48 * KIB)):
        for key in range(keys):
            await stream.send(str(key), start(), chunk(0, some_bytes(size, seed=key)))
    for stream in streams:  # All memory is taken by parts that fill.
        await stream.send("one more", start(), chunk(0, bytes(16 * KIB)))
    assert (await upload(files, as_user("bob"), whole(b"hello"))).size_bytes == 5
    for stream, keys in zip(streams, (7, 5), strict=True):
        names = [*map(str, range(keys)), "one more"]
        for name in names:
            await stream.send(name, finish())
        assert await stream.outcomes() == dict.fromkeys(names, "ok")


async def test_who_stops_in_the_middle_or_sends_the_same_again_keeps_no_memory_from_others(
    serve_files: Any, as_user: Any
) -> None:
    files, goes_on = await serve_files(file_upload_memory_bytes=MIB, file_part_bytes=MIB), asyncio.Event()
    data = some_bytes(900 * KIB)
    sent = asyncio.Event()

    async def slow(*, again: bool) -> AsyncIterator[pb2.UploadFileRequest]:
        yield start()
        for request in chunks(data[: 450 * KIB]):
            yield request
        sent.set()
        while not goes_on.is_set():
            await asyncio.sleep(0.05)
            if again:
                yield chunk(450 * KIB - 1, data[450 * KIB - 1 : 450 * KIB])
        for request in chunks(data, behind=450 * KIB):
            yield request
        yield finish(size_bytes=len(data))

    calls = [
        files.UploadFile(slow(again=again), metadata=as_user("ann"), timeout=3 * DEADLINE) for again in (False, True)
    ]
    await sent.wait()
    other = whole(some_bytes(900 * KIB, seed=2), chunk_bytes=300 * KIB)
    assert (await upload(files, as_user("bob"), other)).size_bytes == 900 * KIB
    goes_on.set()
    for call in calls:
        assert (await download(files, as_user("ann"), (await call).file.id))[1] == data


async def test_a_stream_whose_answers_nobody_reads_is_ended(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(file_idle_timeout=1.0)
    stream = Stream(files, as_user("ann"))

    for number in range(2_000):  # More answers than wait here and there, and few enough bytes to be taken at once.
        await stream.send(str(number), chunk(0, b"x"))
    await asyncio.sleep(2)
    with raises_status(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
        while await stream.call.read() is not grpc.aio.EOF:
            pass


async def test_a_stream_that_is_cut_while_it_is_closed_keeps_nothing(
    serve_files: Any, as_user: Any, gate: Gate
) -> None:
    files = await serve_files(file_max_uploads=4, **SMALL_MEMORY)
    stream = Stream(files, as_user("ann"))
    for key in ("a", "b", "c"):
        await stream.send(key, start(), chunk(0, bytes(200 * KIB)))
    await stream.send("whole", start(), chunk(0, b"whole"), finish())
    await eventually(lambda: gate.waiting)
    await stream.call.write(pb2.UploadFilesRequest(key=""))  # Nobody can tell which file is meant: the stream ends.
    await asyncio.sleep(0.2)
    stream.call.cancel()
    await asyncio.sleep(0.2)
    gate.open()
    await eventually(lambda: has_ended(files, as_user("ann"), 1))
    await assert_all_memory_is_there(files, as_user("ann"))
    again = Stream(files, as_user("ann"))
    for key in "abcd":  # All places are free, too.
        await again.send(key, start())
    for key in "abcd":
        await again.send(key, chunk(0, b"x"), finish())
    assert await again.outcomes() == dict.fromkeys("abcd", "ok")


async def has_ended(files: FileServiceStub, metadata: Metadata, stored: int) -> bool:
    return len(await list_ids(files, metadata)) == stored


async def test_uploads_that_are_cut_while_they_are_given_up_keep_nothing(
    serve_files: Any, as_user: Any, gate: Gate, behind: Any
) -> None:
    files = await serve_files(**SMALL_MEMORY)
    for number in range(1, 7):

        async def unfinished() -> AsyncIterator[pb2.UploadFileRequest]:
            yield start()
            for request in chunks(some_bytes(460 * KIB)):
                yield request

        call: Any = files.UploadFile(unfinished(), metadata=as_user("ann"), timeout=DEADLINE)
        await eventually(partial(gate.has, number))
        await asyncio.sleep(0.2)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
    gate.open()
    await eventually(lambda: not behind.parts())
    await eventually(behind.is_empty)
    await assert_all_memory_is_there(files, as_user("ann"))


async def test_an_upload_whose_hashing_fails_is_no_file(
    serve_files: Any, as_user: Any, behind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, take, calls = await serve_files(), Digest.take, 0

    def take_or_fail(digest: Digest, runs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("can't start new thread")
        take(digest, runs)

    monkeypatch.setattr(Digest, "take", take_or_fail)
    with raises_status(grpc.StatusCode.INTERNAL, "INTERNAL"):
        await upload(files, as_user("ann"), whole(some_bytes(4 * PART + 100)))
    await eventually(behind.is_empty)


@pytest.mark.usefixtures("in_a_folder")
async def test_a_fault_while_a_file_is_stored_is_told_at_once_and_the_stream_goes_on(
    serve_files: Any, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = await serve_files()
    stream = Stream(files, as_user("ann"))
    with monkeypatch.context() as broken:
        broken.setattr(Folder, "put", lambda *_: 1 / 0)
        await stream.send("bad", start(), chunk(0, b"x"), finish())
        answer = await asyncio.wait_for(stream.call.read(), DEADLINE)
    assert (answer.key, reason_of(answer.rejected)) == ("bad", "INTERNAL")
    await stream.send("good", start(), chunk(0, b"x"), finish())
    assert await stream.outcomes() == {"good": "ok"}


async def test_files_that_come_one_after_the_other_are_never_too_many(files: FileServiceStub, as_user: Any) -> None:
    stream, count = Stream(files, as_user("ann")), 100
    for number in range(count):
        await stream.send(str(number), *whole(some_bytes(5_000, seed=number)))
    assert await stream.outcomes() == {str(number): "ok" for number in range(count)}


async def test_parts_are_read_back_two_at_a_time_for_all_uploads_of_a_process(
    serve_files: Any, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await serve_files(), await serve_files()
    data, ann = some_bytes(3 * PART), as_user("ann")
    ids = []
    for number in range(6):
        begun = await create(first, ann, str(number))
        await send_and_cut(first, ann, begun.id, chunks(data), 3 * PART)
        ids.append(begun.id)
    get, reading, most = PartStore.get, 0, 0

    async def get_slowly(store: PartStore, part: Any) -> bytes:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0.02)
        reading -= 1
        return await get(store, part)

    monkeypatch.setattr(PartStore, "get", get_slowly)
    stored = await asyncio.gather(*(go_on(second, ann, upload_id) for upload_id in ids))
    assert [file.size_bytes for file in stored] == [3 * PART] * 6
    assert most == 2


async def test_more_streams_than_places_to_receive_go_on_all_the_same(serve_files: Any, as_user: Any) -> None:
    files = await serve_files(file_max_uploads_per_user=400)
    idle = [Stream(files, as_user("ann")) for _ in range(80)]
    for stream in idle:
        await stream.send("a", start())
    began = asyncio.get_running_loop().time()
    assert (await upload(files, as_user("bob"), whole(b"hello"))).size_bytes == 5
    assert asyncio.get_running_loop().time() - began < 10
    for stream in idle:
        await stream.send("a", chunk(0, b"x"), finish())
    for stream in idle:
        assert await stream.outcomes() == {"a": "ok"}
