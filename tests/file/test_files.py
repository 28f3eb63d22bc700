"""GetFile, ListFiles, DeleteFile: a user's own files."""

from typing import Any
from uuid import uuid4

import grpc
import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.steps import Behind, download, list_ids, upload, whole
from tests.support import raises_status

NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def five(files: FileServiceStub, as_user: Any) -> list[str]:
    """The ids of ann's files, newest first."""
    return [(await upload(files, as_user("ann"), whole(b"x", f"{n}"))).id for n in range(5)][::-1]


@pytest.fixture
def list_files(files: FileServiceStub, as_user: Any) -> Any:
    async def list_files(name: str = "ann", **fields: Any) -> pb2.ListFilesResponse:
        return await files.ListFiles(pb2.ListFilesRequest(**fields), metadata=as_user(name))

    return list_files


def ids(page: pb2.ListFilesResponse) -> list[str]:
    return [file.id for file in page.files]


async def test_a_file_is_got_as_it_was_told(files: FileServiceStub, as_user: Any) -> None:
    stored = await upload(files, as_user("ann"), whole(b"hello"))
    assert (await files.GetFile(pb2.GetFileRequest(id=stored.id), metadata=as_user("ann"))).file == stored


async def test_a_strangers_file_is_neither_listed_nor_deleted(
    files: FileServiceStub, as_user: Any, list_files: Any
) -> None:
    stored = await upload(files, as_user("ann"), whole(b"hello"))
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        await files.DeleteFile(pb2.DeleteFileRequest(id=stored.id), metadata=as_user("bob"))
    page = await list_files("bob")
    assert (ids(page), page.total_size) == ([], 0)
    assert ids(await list_files("ann")) == [stored.id]


async def test_ids_that_are_none_are_refused(files: FileServiceStub, as_user: Any) -> None:
    with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["id"]):
        await files.GetFile(pb2.GetFileRequest(id="../7"), metadata=as_user("ann"))
    with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["id"]):
        await files.DeleteFile(pb2.DeleteFileRequest(), metadata=as_user("ann"))
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        await files.GetFile(pb2.GetFileRequest(id=str(uuid4())), metadata=as_user("ann"))


async def test_pages_follow_one_another_newest_first(list_files: Any, five: list[str]) -> None:
    first = await list_files(page_size=2)
    second = await list_files(page_size=2, page_token=first.next_page_token)
    third = await list_files(page_size=2, page_token=second.next_page_token)
    assert ids(first) + ids(second) + ids(third) == five
    assert [page.total_size for page in (first, second, third)] == [5, 5, 5]
    assert third.next_page_token == ""


async def test_a_page_can_start_further_on(list_files: Any, five: list[str]) -> None:
    page = await list_files(page_size=2, skip=3)
    assert (ids(page), page.total_size, page.next_page_token) == (five[3:], 5, "")
    beyond = await list_files(skip=5)
    assert (ids(beyond), beyond.total_size, beyond.next_page_token) == ([], 5, "")


@pytest.mark.usefixtures("five")
async def test_a_page_token_is_good_for_its_own_list_only(list_files: Any) -> None:
    token = (await list_files(page_size=2)).next_page_token
    for wrong in ("nonsense", token[:-2] + "AA"):
        with raises_status(INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
            await list_files(page_token=wrong)
    with raises_status(INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
        await list_files("bob", page_token=token)


@pytest.mark.parametrize(("field", "value"), [("page_size", -1), ("page_size", 101), ("skip", -1)])
async def test_a_page_that_breaks_a_rule_is_refused(list_files: Any, field: str, value: int) -> None:
    with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=[field]):
        await list_files(**{field: value})


async def test_a_deleted_file_is_gone_at_once_for_everybody(
    files: FileServiceStub, as_user: Any, five: list[str], behind: Behind
) -> None:
    ann = as_user("ann")
    await files.DeleteFile(pb2.DeleteFileRequest(id=five[1]), metadata=ann)
    assert await list_ids(files, ann) == [five[0], *five[2:]]
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        await files.GetFile(pb2.GetFileRequest(id=five[1]), metadata=ann)
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        await download(files, ann, five[1])
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        await files.DeleteFile(pb2.DeleteFileRequest(id=five[1]), metadata=ann)
    assert len(behind.parts()) == 5  # The worker removes them.


async def test_every_call_needs_a_token(files: FileServiceStub) -> None:
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"
    with raises_status(*unauthenticated):
        await files.GetFile(pb2.GetFileRequest(id=str(uuid4())))
    with raises_status(*unauthenticated):
        await files.ListFiles(pb2.ListFilesRequest())
    with raises_status(*unauthenticated):
        await files.DeleteFile(pb2.DeleteFileRequest(id=str(uuid4())))
    with raises_status(*unauthenticated):
        await files.GetUploadLimits(pb2.GetUploadLimitsRequest())
    with raises_status(*unauthenticated):
        await download(files, (), str(uuid4()))
