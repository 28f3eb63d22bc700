"""`parley upload` and `download` against the file service itself, as real processes that are cut, ended and killed."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.auth import suite
from tests.cli.parley_process import Parley, Running, Services
from tests.cli.relay import Relay
from tests.service_process import ServiceProcess, channel_to, service_process

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SIZE = 30 * MIB
PART = MIB
AGAIN = "the same command again goes on with it"


@pytest.fixture
async def served(services: Services, database_url: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    limits = {"PARLEY_FILE_MAX_BYTES": str(64 * MIB), "PARLEY_FILE_PART_BYTES": str(PART)}
    with service_process("file", database_url, tmp_path, auth_address=services.auth.address, **limits) as process:
        await process.until_serving()
        yield process


@pytest.fixture
async def relay(served: ServiceProcess) -> AsyncIterator[Relay]:
    async with Relay(served.address).running() as running:
        yield running


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def folder(tmp_path: Path, signed_in: Parley) -> Path:
    folder = tmp_path / "current"
    folder.mkdir()
    signed_in.current_folder = folder
    return folder


class Files:
    """What the tests see at the file service."""

    def __init__(self, served: ServiceProcess, services: Services) -> None:
        self._served = served
        self._services = services

    async def all(self) -> list[pb2.File]:
        return list((await self._call("ListFiles", pb2.ListFilesRequest())).files)

    async def uploads(self) -> list[pb2.Upload]:
        return list((await self._call("ListUploads", pb2.ListUploadsRequest())).uploads)

    async def _call(self, method: str, request: Any) -> Any:
        me = (await suite.sign_in(self._services.auth_stub)).metadata
        async with channel_to(self._served.address) as channel:
            return await getattr(FileServiceStub(channel), method)(request, metadata=me, timeout=10)


@pytest.fixture
def files(served: ServiceProcess, services: Services) -> Files:
    return Files(served, services)


def digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def held(relay: Relay) -> None:
    await asyncio.wait_for(relay.is_held.wait(), 30)


async def test_files_come_down_as_they_went_up(
    signed_in: Parley, served: ServiceProcess, files: Files, big: Path, folder: Path
) -> None:
    paths = [big, big.with_name("empty"), big.with_name("one part"), big.with_name("Grüezi.txt")]
    for path, content in zip(paths[1:], (b"", os.urandom(PART), b"hello"), strict=True):
        await asyncio.to_thread(path.write_bytes, content)
    up = await signed_in.run("upload", *map(str, paths), "--label", "trip=alps", "--target", served.address)
    assert (up.code, up.stderr) == (0, "")
    ids = dict(line.split("  ")[::-1] for line in up.stdout.splitlines())
    stored = {file.filename: file for file in await files.all()}
    assert {ids[str(path)]: path.name for path in paths} == {file.id: name for name, file in stored.items()}
    assert stored["Grüezi.txt"].content_type == "text/plain"
    assert dict(stored["big.bin"].labels) == {"trip": "alps"}
    down = await signed_in.run("download", *ids.values(), "--target", served.address)
    assert (down.code, down.stderr) == (0, "")
    assert names_in(folder) == {path.name for path in paths}
    for path in paths:
        assert digest(folder / path.name) == digest(path) == stored[path.name].sha256
    assert await files.uploads() == []


@pytest.mark.parametrize("filename", ["../../x", "..", "/etc/passwd", "a\x1b[31m"])
async def test_a_name_of_a_stranger_does_no_harm(
    signed_in: Parley, served: ServiceProcess, folder: Path, filename: str
) -> None:
    to = ("--target", served.address)
    up = await signed_in.run("upload", "-", "--name", filename, *to, stdin="hello")
    assert (up.code, up.stderr) == (0, "")
    down = await signed_in.run("download", up.stdout.strip(), *to)
    names = {"../../x": "x", "..": up.stdout.strip(), "/etc/passwd": "passwd", "a\x1b[31m": "a_[31m"}
    assert (down.code, down.stdout) == (0, f"{names[filename]}\n")
    assert names_in(folder) == {names[filename]}


@pytest.mark.parametrize("how", ["interrupt", "kill"])
async def test_an_upload_goes_on_where_it_was_ended(
    signed_in: Parley, relay: Relay, files: Files, big: Path, how: str
) -> None:
    relay.hold_after(20 * MIB)
    run = await signed_in.begin("upload", str(big), "--target", relay.address)
    await held(relay)
    end(run, how)
    assert (await run.ended()).code == (130 if how == "interrupt" else -9)
    (upload,) = await files.uploads()
    assert upload.persisted_size >= 10 * MIB
    relay.let_go()
    before = relay.forwarded
    again = await signed_in.run("upload", str(big), "--target", relay.address)
    assert again.code == 0
    assert f"{big}: resumed at " in again.stderr
    assert relay.forwarded - before < SIZE - upload.persisted_size + 2 * MIB
    (file,) = await files.all()
    assert file.sha256 == digest(big)


@pytest.mark.parametrize("how", ["interrupt", "kill"])
async def test_a_download_goes_on_where_it_was_ended(
    signed_in: Parley, served: ServiceProcess, relay: Relay, big: Path, folder: Path, how: str
) -> None:
    id_ = (await signed_in.run("upload", str(big), "--target", served.address)).stdout.strip()
    relay.hold_after(20 * MIB)
    run = await signed_in.begin("download", id_, "--target", relay.address)
    await held(relay)
    part = folder / "big.bin.part"
    async with asyncio.timeout(20):
        while not part.exists() or part.stat().st_size < 10 * MIB:  # noqa: ASYNC110  # another process writes it
            await asyncio.sleep(0.02)
    end(run, how)
    await run.ended()
    relay.let_go()
    before = relay.forwarded
    again = await signed_in.run("download", id_, "--target", relay.address)
    assert again.code == 0
    assert "big.bin: resumed at " in again.stderr
    assert relay.forwarded - before < 21 * MIB
    assert digest(folder / "big.bin") == digest(big)
    assert not part.exists()


async def test_transfers_outlive_the_server(
    signed_in: Parley, served: ServiceProcess, relay: Relay, files: Files, big: Path, folder: Path
) -> None:
    relay.hold_after(15 * MIB)
    up = await signed_in.begin("upload", str(big), "--target", relay.address)
    await held(relay)
    await restart(served, relay)
    uploaded = await up.ended()
    assert uploaded.code == 0
    assert "trying again" in uploaded.stderr
    assert relay.forwarded < 2 * SIZE
    (file,) = await files.all()
    assert file.sha256 == digest(big)

    relay.hold_after(15 * MIB)
    down = await signed_in.begin("download", file.id, "--target", relay.address)
    await held(relay)
    await restart(served, relay)
    assert (await down.ended()).code == 0
    assert digest(folder / "big.bin") == digest(big)


async def test_pipes_outlive_cuts(signed_in: Parley, served: ServiceProcess, relay: Relay, big: Path) -> None:
    text = (await asyncio.to_thread(big.read_bytes)).hex()
    relay.hold_after(30 * MIB)
    run = await signed_in.begin("upload", "-", "--name", "hex", "--target", relay.address)
    ending = asyncio.create_task(run.ended(text))
    await held(relay)
    relay.cut()
    relay.let_go()
    up = await ending
    assert up.code == 0
    relay.hold_after(30 * MIB)
    run = await signed_in.begin("download", up.stdout.strip(), "-o", "-", "--target", relay.address)
    ending = asyncio.create_task(run.ended())
    await held(relay)
    relay.cut()
    relay.let_go()
    down = await ending
    assert down.code == 0
    assert down.stdout == text
    assert (
        await signed_in.run("download", up.stdout.strip(), "-o", "-", "--limit", "8", "--target", served.address)
    ).stdout == text[:8]


async def test_who_resumes_last_has_the_upload(signed_in: Parley, relay: Relay, files: Files, big: Path) -> None:
    relay.hold_after(15 * MIB)
    first = await signed_in.begin("upload", str(big), "--target", relay.address)
    await held(relay)
    first.process.send_signal(signal.SIGSTOP)
    relay.let_go()
    second = await signed_in.run("upload", str(big), "--target", relay.address)
    first.process.send_signal(signal.SIGCONT)
    assert second.code == 0
    ended = await first.ended()
    assert (ended.code, ended.stderr) == (1, f"parley: {big}: another command has gone on with this upload\n")
    assert len(await files.all()) == 1


async def test_what_the_service_does_not_take_is_said(signed_in: Parley, served: ServiceProcess, big: Path) -> None:
    with big.open("ab") as file:
        file.truncate(65 * MIB)
    ended = await signed_in.run("upload", str(big), "--target", served.address)
    limit = f"a file may have at most {64 * MIB} bytes (FILE_TOO_LARGE)"
    assert (ended.code, ended.stdout) == (1, "")
    assert ended.stderr.endswith(f": {limit}\n")
    assert not list((signed_in.folder / "uploads").iterdir())


def end(run: Running, how: str) -> None:
    if how == "interrupt":
        run.interrupt()
    else:
        run.process.kill()


async def restart(served: ServiceProcess, relay: Relay) -> None:
    """Kill the server, and start it again."""
    await asyncio.to_thread(served.kill)
    relay.cut()
    relay.let_go()
    served.start()
    await served.until_serving()
