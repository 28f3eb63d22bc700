"""Names of files are strangers' data: kept as they came or refused, through every call that takes one, never a path."""

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.resuming import create, go_on
from tests.file.steps import PART, Behind, Metadata, chunks, download, list_ids, upload, whole
from tests.support import raises_status

STRANGE = {
    "up": "../../../etc/passwd",
    "absolute": "/etc/passwd",
    "parent": "..",
    "drive": "C:\\boot.ini",
    "right to left": "invoice\u202efdp.exe",
    "marks alone": "\u200f\u202e",
    "escape": "\x1b[2J",
    "longest": "ä" * 255,
}
REFUSED = {"NUL": "a\0b", "NUL alone": "\0", "endless": "x" * 10_000, "endless path": "../" * 3_333 + "x"}

Name = Callable[[FileServiceStub, Metadata, str, bytes], Awaitable[pb2.File]]


@pytest.fixture
def data() -> bytes:
    """What no other test stores: they may share a server."""
    return secrets.token_bytes(PART + 100)


async def created(files: FileServiceStub, metadata: Metadata, name: str, data: bytes) -> pb2.File:
    made = await create(files, metadata, name)
    assert made.filename == name
    return await go_on(files, metadata, made.id, chunks(data))


async def updated(files: FileServiceStub, metadata: Metadata, name: str, data: bytes) -> pb2.File:
    stored = await upload(files, metadata, whole(data))
    request = pb2.UpdateFileRequest(
        id=stored.id, file=pb2.FilePatch(filename=name), update_mask=FieldMask(paths=["filename"])
    )
    return (await files.UpdateFile(request, metadata=metadata)).file


@pytest.mark.parametrize("named", [created, updated])
@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE)
async def test_a_strange_name_is_kept_as_it_came_and_leads_nowhere(
    files: FileServiceStub, as_user: Any, behind: Behind, data: bytes, named: Name, name: str
) -> None:
    ann = as_user("ann")
    stored = await named(files, ann, name, data)
    assert stored.filename == name
    assert await download(files, ann, stored.id) == (stored, data)
    parts = behind.parts()
    assert len(parts) == 2
    assert {part.parent.parent for part in parts} == {behind.folder}
    assert set("".join(part.name for part in parts)) <= set("0123456789abcdef")
    inside = {path for path in behind.kept.whole.parent.rglob("*") if path.is_file()}
    assert {path for path in inside if path.read_bytes() in (data[:PART], data[PART:])} == set(parts)


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED)
async def test_a_name_that_cannot_be_kept_is_refused_and_leaves_everything_as_it_was(
    files: FileServiceStub, as_user: Any, behind: Behind, data: bytes, name: str
) -> None:
    ann = as_user("ann")
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["start.filename"]):
        await created(files, ann, name, data)
    assert await behind.is_empty()
    with raises_status(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["file.filename"]):
        await updated(files, ann, name, data)
    (file_id,) = await list_ids(files, ann)
    stored, kept = await download(files, ann, file_id)
    assert (stored.filename, stored.update_time, kept) == ("notes.bin", stored.create_time, data)
