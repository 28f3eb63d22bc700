"""A running file service with small parts, so that small files have several."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.database import Database
from tests.file.steps import PART, Behind

ServeFiles = Callable[..., Awaitable[FileServiceStub]]


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
def behind(tmp_path: Path, database: Database) -> Behind:
    return Behind(tmp_path / "data" / "files", database)
