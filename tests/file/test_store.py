"""The stores: bytes under names, durable where they are acknowledged, and what a store that fails does to calls."""

import errno
import os
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import obstore
import pytest
from google.rpc import error_details_pb2 as details_pb2
from obstore.store import LocalStore, MemoryStore

from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.models import Part
from services.file.settings import FileSettings
from services.file.store import Bucket, Buffer, Folder, PartLost, PartStore, Store, StoreFailed, open_parts
from services.file.store.folder import IOV_MAX
from services.file.store.opening import objects_at
from services.file.wiring import open_file
from services.kit.ids import utc_now
from tests.file.steps import PART, Behind, Kept, download, eventually, list_ids, some_bytes, upload, whole
from tests.support import detail, raises_status, status_of

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
DATA = some_bytes(3 * PART + 1000)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" in metafunc.fixturenames:
        kinds = ["s3"] if metafunc.config.getoption("--s3") else ["folder", "memory"]
        metafunc.parametrize("store", kinds, indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path, kept: Kept) -> Store:
    if request.param == "folder":
        return Folder(tmp_path)
    return Bucket(MemoryStore() if request.param == "memory" else objects_at(kept.url, 10))


def test_a_store_gives_back_what_was_put(store: Store) -> None:
    key = PartStore.new_key()
    store.put(key, [bytearray(b"one two three")])
    assert store.get(key) == b"one two three"


def test_a_name_that_is_not_there_is_lost(store: Store) -> None:
    with pytest.raises(PartLost):
        store.get(PartStore.new_key())


def test_deleting_passes_over_names_that_are_not_there(store: Store) -> None:
    assert_deleting_passes_over_names_that_are_not_there(store)


def test_a_store_that_stops_at_a_name_that_is_not_there_deletes_the_others(tmp_path: Path) -> None:
    assert_deleting_passes_over_names_that_are_not_there(Bucket(LocalStore(tmp_path)))


def assert_deleting_passes_over_names_that_are_not_there(store: Store) -> None:
    kept, gone, never = (PartStore.new_key() for _ in range(3))
    store.put(kept, [b"kept"])
    store.put(gone, [b"gone"])
    store.delete([never, gone, PartStore.new_key()])
    store.delete([gone])
    assert store.get(kept) == b"kept"
    with pytest.raises(PartLost):
        store.get(gone)


def test_pieces_are_joined_in_their_order(store: Store) -> None:
    data, key = bytearray(some_bytes(3_000_000)), PartStore.new_key()
    tiny = [memoryview(data)[at : at + 700] for at in range(0, len(data), 700)]
    store.put(key, [b"", *tiny, b"", b"end"])
    assert store.get(key) == bytes(data) + b"end"
    assert len(tiny) > 2 * IOV_MAX


def test_all_that_is_kept_is_listed_in_order_and_by_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.file.store.folder.PAGE_OBJECTS", 7)
    monkeypatch.setattr("services.file.store.bucket.PAGE_OBJECTS", 7)
    sizes = {PartStore.new_key(): size for size in range(30)}
    for key, size in sizes.items():
        store.put(key, [bytes(size)])
    pages = list(store.list())
    listed = [stored for page in pages for stored in page]
    assert [len(page) for page in pages] == [7, 7, 7, 7, 2]
    assert [stored.key for stored in listed] == sorted(sizes)
    assert {stored.key: stored.size_bytes for stored in listed} == sizes
    assert all(stored.is_part and abs(stored.last_modified - utc_now()) < timedelta(minutes=1) for stored in listed)
    for at in (0, 12, 29):
        assert [stored for page in store.list(after=listed[at].key) for stored in page] == listed[at + 1 :]


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list(store.list()) == []


def test_what_somebody_put_among_the_parts_is_listed_as_no_part(tmp_path: Path) -> None:
    store, key = Folder(tmp_path), f"ab/{30 * '0'}ab"
    store.put(key, [b"part"])
    (tmp_path / "ab" / "a folder").mkdir()
    (tmp_path / "ab" / "a folder" / "deep").touch()
    (tmp_path / "ab" / "zz stray").write_text("stray")
    (tmp_path / "ab" / f"{31 * '0'}1").touch()
    (tmp_path / "note").touch()
    (tmp_path / "ac").touch()
    (tmp_path / "lost+found").mkdir(mode=0)
    (listed,) = store.list()
    assert [(stored.key, stored.is_part) for stored in listed] == [
        (f"ab/{31 * '0'}1", False),
        (key, True),
        ("ab/zz stray", False),
    ]


def test_a_store_that_is_away_is_not_listed_as_empty(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed):
        list(Folder(tmp_path / "away").list())


async def test_pages_are_listed_off_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.file.store.folder.PAGE_OBJECTS", 2)
    async with open_parts(tmp_path.as_uri(), threads=2) as parts:
        keys = sorted(parts.new_key() for _ in range(5))
        for key in keys:
            await parts.put(Part(0, 1, 0, key), [b"x"], lambda _: None)
        assert [[stored.key for stored in page] async for page in parts.list_pages()] == [keys[:2], keys[2:4], keys[4:]]
        shutil.rmtree(tmp_path)
        with pytest.raises(StoreFailed):
            await anext(parts.list_pages())


@pytest.mark.parametrize("fails", ["writev", "fsync"])
def test_what_was_written_of_a_part_that_fails_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    store, key = Folder(tmp_path), PartStore.new_key()
    (tmp_path / key).parent.mkdir()
    store.put(f"{key[:2]}/other", [b"other"])

    def full(*_: Any) -> int:
        assert (tmp_path / key).exists()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(StoreFailed, match="No space left"):
        store.put(key, [b"some"])
    assert [path.name for path in (tmp_path / key).parent.iterdir()] == ["other"]


def test_a_system_that_takes_few_bytes_at_a_time_gets_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key, data = Folder(tmp_path), PartStore.new_key(), some_bytes(5_000)
    monkeypatch.setattr(os, "writev", lambda file, pieces: os.write(file, b"".join(pieces)[:777]))
    store.put(key, [data[:10], data[10:3000], data[3000:]])
    assert store.get(key) == data


def test_a_name_is_never_written_twice(tmp_path: Path) -> None:
    store, key = Folder(tmp_path), PartStore.new_key()
    store.put(key, [b"first"])
    with pytest.raises(StoreFailed):
        store.put(key, [b"second"])
    assert store.get(key) == b"first"


def test_a_part_and_the_folders_that_list_it_are_on_the_disk_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", noting)
    key = PartStore.new_key()
    Folder(tmp_path).put(key, [bytes(4_000), bytes(6_000)])
    paths = [path for path, _ in synced]
    assert paths == [str(tmp_path), str(tmp_path / key), str((tmp_path / key).parent)]
    assert synced[1][1] == 10_000


def test_a_folder_that_was_away_is_written_again_once_it_is_back(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    store = Folder(root)
    store.put("aa/1", [b"before"])
    away = root.rename(tmp_path / "away")
    with pytest.raises(StoreFailed):
        store.put("aa/2", [b"meanwhile"])
    shutil.rmtree(away / "aa")
    away.rename(root)
    store.put("aa/3", [b"after"])
    assert store.get("aa/3") == b"after"


def test_an_empty_folder_in_place_of_the_store_is_not_written_and_no_part_of_it_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    store = Folder(root)
    store.put("aa/1", [b"before"])
    mounted = root.rename(tmp_path / "disk")
    root.mkdir()  # What is behind a disk that is not mounted any more.
    with pytest.raises(StoreFailed):
        store.put("aa/2", [b"meanwhile"])
    with pytest.raises(StoreFailed):
        store.get("aa/1")
    root.rmdir()
    mounted.rename(root)
    assert store.get("aa/1") == b"before"


async def test_files_can_be_kept_by_an_object_store(serve_files: Any, as_user: Any, behind: Behind) -> None:
    files, ann = await serve_files(file_store_url="memory:///"), as_user("ann")
    stored = await upload(files, ann, whole(DATA))
    assert (await download(files, ann, stored.id, offset=PART - 1))[1] == DATA[PART - 1 :]
    assert behind.parts() == []


async def test_a_folder_is_made_where_the_url_says(tmp_path: Path) -> None:
    folder = tmp_path / "with space" / "and ümlaut"
    async with open_parts(folder.as_uri(), threads=1):
        assert folder.stat().st_mode & 0o777 == 0o700


class Full(Folder):
    """A disk with room for one part."""

    def put(self, key: str, data: Sequence[Buffer]) -> None:
        if any(path.is_file() for path in self._root.rglob("*")):
            (self._root / key).parent.mkdir(exist_ok=True)
            (self._root / key).write_bytes(data[0][:10])
            raise StoreFailed(os.strerror(errno.ENOSPC))
        super().put(key, data)


@pytest.mark.usefixtures("in_a_folder")
async def test_a_full_disk_is_unavailable_and_leaves_nothing(
    serve: Any, settings: Any, as_user: Any, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.file.store.opening.Folder", Full)
    files = FileServiceStub(await serve(open_file, settings(FileSettings, file_port=0, file_part_bytes=PART)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(files, as_user("ann"), whole(DATA))
    assert caught.value.code() == UNAVAILABLE
    status = status_of(caught.value)
    assert detail(status, details_pb2.ErrorInfo).reason == "STORE_UNAVAILABLE"  # type: ignore[union-attr]  # else it fails
    assert detail(status, details_pb2.RetryInfo) is not None
    assert await list_ids(files, as_user("ann")) == []
    await eventually(behind.is_empty)
    assert (await upload(files, as_user("ann"), whole(b"fits"))).size_bytes == 4


@pytest.mark.usefixtures("in_a_folder")
async def test_a_folder_that_cannot_be_written_is_unavailable_until_it_can(
    files: FileServiceStub, as_user: Any, behind: Behind
) -> None:
    behind.folder.rmdir()
    behind.folder.write_text("not a folder")
    with raises_status(UNAVAILABLE, "STORE_UNAVAILABLE"):
        await upload(files, as_user("ann"), whole(DATA))
    assert await list_ids(files, as_user("ann")) == []
    behind.folder.unlink()
    behind.folder.mkdir()
    assert (await upload(files, as_user("ann"), whole(DATA))).size_bytes == len(DATA)


def test_obstore_puts_in_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A multipart upload that is broken off would leave parts in the bucket that no name leads to."""
    asked: list[Any] = []
    monkeypatch.setattr(obstore, "put", lambda *_, **options: asked.append(options))
    Bucket(MemoryStore()).put("aa/key", [bytes(9 * 2**20)])
    assert asked == [{"use_multipart": False}]
