"""Uploads that are cut at a moment that is awkward for the server."""

import hashlib
import threading
from typing import Any

import pytest

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.steps import DEADLINE, PART, Behind, chunks, eventually, finish, some_bytes, upload, whole
from tests.file.test_upload_property import Writer


async def test_what_reaches_the_store_after_its_client_has_gone_is_removed(
    files: FileServiceStub, as_user: Any, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, gone = threading.Event(), threading.Event(), threading.Event()
    put = behind.kept.store.put

    def put_late(self: Any, key: str, data: Any) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        put(self, key, data)
        gone.set()

    monkeypatch.setattr(behind.kept.store, "put", put_late)
    call = files.UploadFile(iter(whole(some_bytes(1000))), metadata=as_user("ann"), timeout=DEADLINE)
    await eventually(begun.is_set)
    call.cancel()
    # As long as an upload ends that waits for nothing.
    monkeypatch.setattr(behind.kept.store, "put", put)
    await upload(files, as_user("bob"), whole(b"another"))
    go_on.set()
    await eventually(gone.is_set)
    await eventually(lambda: len(behind.parts()) == 1)


async def test_what_a_server_knew_of_bytes_that_were_replaced_elsewhere_counts_no_more(
    serve_files: Any, as_user: Any, behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.file.domain.parts.MARK_AFTER", 3600.0)
    here, elsewhere = await serve_files(), await serve_files()
    request = pb2.CreateUploadRequest(start=pb2.UploadStart(filename="notes.bin"))
    upload_id = (await here.CreateUpload(request, metadata=as_user("ann"))).upload.id
    first = Writer(here, as_user("ann"), by_batch=True)
    await first.send(pb2.UploadFileRequest(resume=pb2.UploadResume(upload_id=upload_id)))
    assert await first.has_begun() == 0
    old = some_bytes(2 * PART)
    await first.send(*chunks(old, PART))
    await eventually(lambda: len(behind.parts()) == 2)
    second = Writer(elsewhere, as_user("ann"), by_batch=True)
    await second.send(pb2.UploadFileRequest(resume=pb2.UploadResume(upload_id=upload_id)))
    kept = await second.has_begun()
    assert kept < len(old)
    await first.outcome()
    new = old[:kept] + some_bytes(3 * PART - kept, seed=2)
    await second.send(*[piece for piece in chunks(new, PART) if piece.chunk.offset >= kept])
    await second.outcome()
    third = Writer(here, as_user("ann"), by_batch=False)
    await third.send(pb2.UploadFileRequest(resume=pb2.UploadResume(upload_id=upload_id)), finish())
    file = await third.outcome()
    assert isinstance(file, pb2.File)
    assert file.sha256 == hashlib.sha256(new).digest()
