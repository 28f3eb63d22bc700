"""Uploads that are cut at a moment that is awkward for the server."""

import threading
from typing import Any

import pytest

from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from tests.file.steps import DEADLINE, Behind, eventually, some_bytes, upload, whole


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
