"""What an upload reads: a file again where it was not kept, and of a pipe what the server does not have yet."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.cli.client.ending import Failed
from services.cli.files import sources
from services.cli.files.sources import CHUNK_BYTES, FileSource, PipeSource, SourceChanged

DATA = os.urandom(3 * CHUNK_BYTES + 17)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.bin"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


async def read_all(source: FileSource | PipeSource, offset: int = 0) -> bytes:
    found = bytearray()
    while data := await source.read(offset + len(found)):
        found += data
    return bytes(found)


async def test_a_file_is_hashed_once_although_it_is_read_again(path: Path) -> None:
    source = FileSource(path)
    await source.read(0)
    await source.read(CHUNK_BYTES)
    assert await read_all(source, 100) == DATA[100:]
    finish = await source.finish()
    assert (finish.size_bytes, finish.sha256) == (len(DATA), hashlib.sha256(DATA).digest())
    source.close()


async def test_what_is_passed_over_is_hashed(path: Path) -> None:
    source = FileSource(path)
    await source.pass_over(2 * CHUNK_BYTES + 5)
    assert await read_all(source, 2 * CHUNK_BYTES + 5) == DATA[2 * CHUNK_BYTES + 5 :]
    assert (await source.finish()).sha256 == hashlib.sha256(DATA).digest()
    source.close()


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda path: path.write_bytes(DATA + b"more"),
    "shorter": lambda path: path.write_bytes(DATA[:CHUNK_BYTES]),
    "touched": lambda path: os.utime(path, ns=(1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_file_that_changes_meanwhile_is_no_upload(path: Path, change: str) -> None:
    source = FileSource(path)
    await source.read(0)
    await asyncio.to_thread(CHANGES[change], path)
    await read_all(source)
    with pytest.raises(SourceChanged):
        await source.finish()
    source.close()


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for place, why in (
        (tmp_path, "is a folder"),
        (fifo, "is no regular file"),
        (tmp_path / "nothing", "cannot be read: No such file"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(Failed, match=why):
            FileSource(place)


async def test_a_pipe_can_be_read_again_from_where_the_server_keeps_nothing(pipe: tuple[int, int]) -> None:
    source = PipeSource(pipe[0])
    writing = asyncio.to_thread(write_all, pipe[1], DATA)
    found, _ = await asyncio.gather(read_all(source), writing)
    assert found == DATA
    source.persisted(CHUNK_BYTES)
    assert await read_all(source, CHUNK_BYTES) == DATA[CHUNK_BYTES:]
    assert (await source.finish()).sha256 == hashlib.sha256(DATA).digest()
    source.persisted(len(DATA))
    with pytest.raises(Failed, match="stdin cannot be read again"):
        await source.read(CHUNK_BYTES)


async def test_a_pipe_gives_what_there_is_and_can_be_waited_for(pipe: tuple[int, int]) -> None:
    source = PipeSource(pipe[0])
    os.write(pipe[1], b"one")
    assert await source.read(0) == b"one"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.read(3), 0.05)
    os.write(pipe[1], b"two")
    await source.ready(3)
    assert await source.read(3) == b"two"
    os.close(pipe[1])
    assert await source.read(6) == b""


async def test_of_a_pipe_no_more_is_held_than_the_window(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "WINDOW_BYTES", 2 * CHUNK_BYTES)
    monkeypatch.setattr(sources, "WINDOW_SECONDS", 0.2)
    source = PipeSource(pipe[0])
    writing = asyncio.create_task(asyncio.to_thread(write_all, pipe[1], DATA))
    # A server that says for a while that it keeps nothing does not hold it up for ever.
    assert await read_all(source) == DATA
    await writing
    assert source._end - source._start <= 2 * CHUNK_BYTES
    with pytest.raises(Failed, match="stdin cannot be read again"):
        await source.read(0)


def write_all(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
