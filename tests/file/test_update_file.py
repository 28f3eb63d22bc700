"""UpdateFile: only the fields of the mask, only the file that was meant, never its bytes."""

from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.steps import download, start, upload, whole
from tests.support import raises_status

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
DATA = b"hello"


@pytest.fixture
async def stored(files: FileServiceStub, as_user: Any) -> pb2.File:
    steps = whole(DATA)
    labels = {"origin": "scan", "kind": "letter"}
    steps[0] = start("notes.bin", content_type="application/x-notes", size_bytes=len(DATA), labels=labels)
    return await upload(files, as_user("ann"), steps)


@pytest.fixture
def update(files: FileServiceStub, as_user: Any, stored: pb2.File) -> Any:
    async def update(mask: list[str], name: str = "ann", etag: str = "", **fields: Any) -> pb2.File:
        request = pb2.UpdateFileRequest(
            id=stored.id, file=pb2.FilePatch(**fields), update_mask=FieldMask(paths=mask), etag=etag
        )
        return (await files.UpdateFile(request, metadata=as_user(name))).file

    return update


async def test_only_what_the_mask_names_is_changed(
    files: FileServiceStub, as_user: Any, stored: pb2.File, update: Any
) -> None:
    updated = await update(["filename"], filename="renamed", content_type="text/html", labels={"a": "b"})
    assert (updated.filename, updated.content_type, updated.labels) == (
        "renamed",
        stored.content_type,
        {"origin": "scan", "kind": "letter"},
    )
    assert updated.etag != stored.etag
    assert updated.update_time.ToDatetime() > stored.update_time.ToDatetime()
    assert updated.create_time == stored.create_time
    assert (await files.GetFile(pb2.GetFileRequest(id=stored.id), metadata=as_user("ann"))).file == updated
    assert await download(files, as_user("ann"), stored.id) == (updated, DATA)


async def test_labels_are_replaced_as_a_whole_and_cleared_when_unset(update: Any) -> None:
    assert (await update(["labels"], labels={"a": "b"})).labels == {"a": "b"}
    assert (await update(["labels"])).labels == {}


async def test_a_star_stands_for_all_fields(update: Any) -> None:
    updated = await update(["*"], filename="renamed")
    assert (updated.filename, updated.content_type, updated.labels) == ("renamed", "", {})


async def test_what_changes_nothing_is_no_revision(stored: pb2.File, update: Any) -> None:
    fields = {"filename": stored.filename, "labels": dict(stored.labels)}
    assert await update(["filename", "labels"], **fields) == stored


async def test_a_mask_that_names_nothing_or_anything_else_is_refused(update: Any, stored: pb2.File) -> None:
    for mask in ([], ["size_bytes"], ["filename", "labels.kind"], ["*", "filename"]):
        with raises_status(INVALID_ARGUMENT, "UPDATE_MASK_INVALID"):
            await update(mask, filename="renamed")
    assert await update(["filename"], filename=stored.filename) == stored


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({"filename": ""}, "file.filename"),
        ({"filename": "x" * 256}, "file.filename"),
        ({"content_type": "x" * 256}, "file.content_type"),
        ({"labels": {"Kind": "x"}}, "file.labels[Kind]"),
        ({"labels": {"kind": "x" * 256}}, "file.labels[kind]"),
        ({"labels": {f"k{n}": "" for n in range(65)}}, "file.labels"),
    ],
)
async def test_the_limits_are_those_of_an_upload(update: Any, fields: dict[str, Any], violation: str) -> None:
    with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[violation]):
        await update(list(fields), **fields)


async def test_fields_that_the_mask_leaves_out_may_be_anything(update: Any) -> None:
    assert (await update(["filename"], filename="renamed", content_type="x" * 300)).filename == "renamed"


async def test_only_the_file_that_was_meant_is_changed(stored: pb2.File, update: Any) -> None:
    updated = await update(["filename"], filename="first", etag=stored.etag)
    with raises_status(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
        await update(["filename"], filename="second", etag=stored.etag)
    assert (await update(["filename"], filename="third", etag=updated.etag)).filename == "third"


async def test_a_strangers_file_and_one_that_is_not_there_are_not_found(
    files: FileServiceStub, as_user: Any, update: Any
) -> None:
    with raises_status(grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND"):
        await update(["filename"], name="bob", filename="mine")
    request = pb2.UpdateFileRequest(
        id=str(uuid4()), file=pb2.FilePatch(filename="x"), update_mask=FieldMask(paths=["filename"])
    )
    with raises_status(grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND"):
        await files.UpdateFile(request, metadata=as_user("ann"))
