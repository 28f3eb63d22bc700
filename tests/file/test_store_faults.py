"""The service over a store that fails, is slow, and is full: what is told, and what is kept."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2

from services.file.settings import FileJobSettings
from services.file.wiring import open_file_jobs
from tests.file.faulty_store import Faults, inject
from tests.file.steps import KIB, PART, Behind, download, eventually, list_ids, some_bytes, upload, whole
from tests.support import detail, reason_of, status_of

UPLOADS = 100
AT_A_TIME = 20
Sweep = Callable[[], Awaitable[None]]


@pytest.fixture
def sweep(settings: Any) -> Sweep:
    """Runs the worker's jobs for an upload that has shown no sign of life for a moment."""

    async def sweep() -> None:
        given = settings(FileJobSettings, file_idle_timeout=0.01, file_unfinished_after=0.05)
        async with open_file_jobs(given) as jobs:
            for job in jobs:
                if job.cron:
                    await job.run()

    return sweep


def must_be_store_unavailable(error: grpc.aio.AioRpcError) -> None:
    status = status_of(error)
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    assert reason_of(status) == "STORE_UNAVAILABLE"
    assert detail(status, details_pb2.RetryInfo) is not None, "nobody is told when to try again"


async def until_it_works(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """What a client does that reads the status."""
    while True:
        try:
            return await attempt()
        except grpc.aio.AioRpcError as error:
            must_be_store_unavailable(error)


async def test_a_store_that_fails_now_and_then_costs_calls_and_no_bytes(
    serve_files: Any, as_user: Any, behind: Behind, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = inject(monkeypatch, Faults(failing=0.01, failing_after=0.01, slow_seconds=0.02))
    files, ann, turn = await serve_files(), as_user("ann"), asyncio.Semaphore(AT_A_TIME)
    contents = {str(n): some_bytes(n * 1111 + 1, seed=n) for n in range(UPLOADS)}
    visible: dict[str, str] = {}

    async def send(name: str, data: bytes) -> None:
        async with turn:
            try:
                stored = await upload(files, ann, whole(data, name))
            except grpc.aio.AioRpcError as error:
                must_be_store_unavailable(error)
            else:
                visible[stored.id] = name

    async def check(file_id: str, name: str) -> None:
        async with turn:
            file, received = await until_it_works(lambda: download(files, ann, file_id))
            assert (file.filename, received == contents[name]) == (name, True)

    await asyncio.gather(*(send(name, data) for name, data in contents.items()))
    await asyncio.gather(*(check(file_id, name) for file_id, name in visible.items()))
    assert sorted(await list_ids(files, ann)) == sorted(visible)
    assert faults.failed > 0
    assert UPLOADS / 2 < len(visible) < UPLOADS, "with this seed some uploads fail, and by far not all"
    faults.stop()
    expected = sorted(size for name in visible.values() for size in part_sizes(len(contents[name])))

    async def only_visible_parts_are_kept() -> bool:
        await sweep()
        return sorted(part.stat().st_size for part in behind.parts()) == expected

    await eventually(only_visible_parts_are_kept)
    await asyncio.gather(*(check(file_id, name) for file_id, name in visible.items()))


def part_sizes(size: int) -> list[int]:
    return [min(PART, size - at) for at in range(0, size, PART)]


def part_file_sizes(folder: Path) -> set[int]:
    return {path.stat().st_size for path in folder.glob("??/*")}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a mebibyte."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.usefixtures("in_a_folder")
async def test_a_disk_that_is_full_refuses_files_until_there_is_room(
    small_disk: Path, serve_files: Any, as_user: Any
) -> None:
    files, ann = await serve_files(file_store_url=small_disk.as_uri()), as_user("ann")
    small = await upload(files, ann, whole(some_bytes(1000, seed=7)))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(700 * KIB))
    data = some_bytes(500 * KIB)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(files, ann, whole(data))
    must_be_store_unavailable(caught.value)
    assert await list_ids(files, ann) == [small.id]
    assert part_file_sizes(small_disk) <= {1000, PART}, "a part is there that was not written to its end"
    assert (await download(files, ann, small.id))[1] == some_bytes(1000, seed=7)
    ballast.unlink()
    stored = await upload(files, ann, whole(data))
    assert (await download(files, ann, stored.id))[1] == data
