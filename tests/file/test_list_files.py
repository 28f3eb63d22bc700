"""ListFiles: filters, orders, and pages that neither repeat nor lose a file."""

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.steps import chunk, finish, start, upload, whole
from tests.support import raises_status

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
FILES = {
    "Report A.txt": ("text/plain", b"hello, and more"),
    "report B.txt": ("text/plain", b"hello"),
    "photo.png": ("application/octet-stream", PNG),
    "100%.html": ("text/plain", b"<script>alert(1)</script>, and a bit more"),
}


@pytest.fixture
def list_files(files: FileServiceStub, as_user: Any) -> Any:
    async def list_files(name: str = "ann", **fields: Any) -> pb2.ListFilesResponse:
        return await files.ListFiles(pb2.ListFilesRequest(**fields), metadata=as_user(name))

    return list_files


@pytest.fixture
async def stored(files: FileServiceStub, as_user: Any) -> list[pb2.File]:
    await upload(files, as_user("bob"), whole(b"hello", "report of bob"))
    return [
        await upload(
            files,
            as_user("ann"),
            [start(name, content_type=kind, labels={"n": str(n)}), chunk(0, data), finish()],
        )
        for n, (name, (kind, data)) in enumerate(FILES.items())
    ]


def names(page: pb2.ListFilesResponse) -> list[str]:
    return [file.filename for file in page.files]


async def test_a_listed_file_is_whole(list_files: Any, stored: list[pb2.File]) -> None:
    assert list((await list_files()).files) == stored[::-1]


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("written", "found"),
    [
        ('filename = "photo.png"', {"photo.png"}),
        ('filename = "PHOTO.PNG"', {"photo.png"}),
        ('filename : "report"', {"Report A.txt", "report B.txt"}),
        ('filename : "%"', {"100%.html"}),
        ('content_type = "text/plain"', {"Report A.txt", "report B.txt", "100%.html"}),
        ('sniffed_content_type = "image/png"', {"photo.png"}),
        ('content_type = "text/plain" AND sniffed_content_type = "text/html"', {"100%.html"}),
        ("create_time > 2020-01-01T00:00:00Z", set(FILES)),
        ("create_time < 2020-01-01T00:00:00Z", set()),
    ],
)
async def test_a_filter_lets_through_what_it_says(list_files: Any, written: str, found: set[str]) -> None:
    page = await list_files(filter=written)
    assert (set(names(page)), page.total_size) == (found, len(found))


async def test_a_filter_by_anything_else_is_refused(list_files: Any) -> None:
    for written in ('labels = "x"', "size_bytes > 3", "filename", 'filename > "a"', 'user_id = "x"'):
        with raises_status(INVALID_ARGUMENT, "FILTER_INVALID"):
            await list_files(filter=written)


@pytest.mark.parametrize(
    ("order_by", "in_order"),
    [
        ("create_time", ["Report A.txt", "report B.txt", "photo.png", "100%.html"]),
        ("create_time desc", ["100%.html", "photo.png", "report B.txt", "Report A.txt"]),
        ("filename", ["100%.html", "Report A.txt", "photo.png", "report B.txt"]),
        ("size_bytes desc, filename", ["100%.html", "photo.png", "Report A.txt", "report B.txt"]),
        ("size_bytes", ["report B.txt", "Report A.txt", "photo.png", "100%.html"]),
    ],
)
@pytest.mark.usefixtures("stored")
async def test_files_come_in_the_order_that_was_asked_for_over_all_pages(
    list_files: Any, order_by: str, in_order: list[str]
) -> None:
    assert names(await list_files(order_by=order_by)) == in_order
    seen: list[str] = []
    token = ""
    for _ in in_order:
        page = await list_files(order_by=order_by, page_size=1, page_token=token)
        assert page.total_size == len(in_order)
        seen += names(page)
        token = page.next_page_token
    assert (seen, token) == (in_order, "")


async def test_the_file_that_was_changed_last_comes_first_where_that_is_asked_for(
    files: FileServiceStub, as_user: Any, list_files: Any, stored: list[pb2.File]
) -> None:
    request = pb2.UpdateFileRequest(
        id=stored[1].id, file=pb2.FilePatch(filename="changed"), update_mask=FieldMask(paths=["filename"])
    )
    await files.UpdateFile(request, metadata=as_user("ann"))
    assert names(await list_files(order_by="update_time desc"))[0] == "changed"


async def test_an_order_by_anything_else_is_refused(list_files: Any) -> None:
    for order_by in ("sha256", "filename down", "filename, filename"):
        with raises_status(INVALID_ARGUMENT, "VALIDATION_FAILED", fields=["order_by"]):
            await list_files(order_by=order_by)


@pytest.mark.usefixtures("stored")
async def test_a_page_token_is_good_for_the_same_list_only(list_files: Any) -> None:
    token = (await list_files(page_size=1)).next_page_token
    for other in ({"filter": 'filename : "r"'}, {"order_by": "filename"}, {"show_deleted": True}):
        with raises_status(INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"):
            await list_files(page_token=token, **other)


async def test_a_page_of_files_with_much_noted_of_them_fits_in_a_message(
    files: FileServiceStub, as_user: Any, list_files: Any
) -> None:
    labels = {f"k{n}": "\U0001f5ff" * 255 for n in range(64)}
    for n in range(60):
        await upload(files, as_user("ann"), [start(f"{n}", labels=labels), finish()])
    first = await list_files()
    second = await list_files(page_token=first.next_page_token)
    assert first.total_size == 60
    assert len(first.files) < 60
    assert names(first) + names(second) == [str(n) for n in range(60)][::-1]
