"""A running file service with small parts, so that small files have several."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.settings import FileJobSettings, FileSettings, FileStoreSettings
from services.file.wiring import open_file, open_file_jobs
from services.kit.database import Database
from tests.file.steps import PART, Behind, Kept
from tools import s3_server

RunJobs = Callable[..., Awaitable[None]]
ServeFiles = Callable[..., Awaitable[FileServiceStub]]


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3_server.S3Server]:
    """A real S3 server, for all tests of a run with --s3; without, those that ask for it are skipped."""
    if not request.config.getoption("--s3"):
        pytest.skip("needs an S3 server: make test-s3")
    with s3_server.running(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Where this test's files are: in a folder, or with --s3 under a prefix of its own in a bucket."""
    if not request.config.getoption("--s3"):
        folder = tmp_path / "data" / "files"
        return Kept(folder.as_uri(), folder, folder)
    server: s3_server.S3Server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    prefix = f"tests/{uuid4().hex}"
    return Kept(f"s3://{s3_server.BUCKET}/{prefix}", server.folder / prefix, server.folder)


@pytest.fixture
def in_a_folder(request: pytest.FixtureRequest) -> None:
    """For tests that make a folder fail."""
    if request.config.getoption("--s3"):
        pytest.skip("about a folder")


@pytest.fixture
def settings(settings: Callable[..., Any], kept: Kept) -> Callable[..., Any]:
    """As for all tests, with this test's store."""

    def make(kind: type[Any], **values: Any) -> Any:
        return settings(kind, **({"file_store_url": kept.url} if issubclass(kind, FileStoreSettings) else {}) | values)

    return make


@pytest.fixture
def serve_files(serve: Any, settings: Any) -> ServeFiles:
    """Starts a file service with settings of its own."""

    async def start(**values: Any) -> FileServiceStub:
        return FileServiceStub(
            await serve(open_file, settings(FileSettings, **({"file_port": 0, "file_part_bytes": PART} | values)))
        )

    return start


@pytest.fixture
async def files(serve_files: ServeFiles) -> FileServiceStub:
    return await serve_files()


@pytest.fixture
def run_jobs(settings: Any) -> RunJobs:
    """Runs the periodic jobs of files once, as the worker would."""

    async def run_jobs(**values: Any) -> None:
        async with open_file_jobs(settings(FileJobSettings, **values)) as jobs:
            for job in jobs:
                if job.cron:
                    await job.run()

    return run_jobs


@pytest.fixture
def behind(kept: Kept, database: Database) -> Behind:
    return Behind(kept, database)
