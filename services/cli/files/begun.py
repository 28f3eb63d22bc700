"""An upload that has a name, by which this run of the command or another goes on with what the server has of it."""

import asyncio
import uuid
from contextlib import suppress

import grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.error_reason_pb2 import (
    ERROR_REASON_CHECKSUM_MISMATCH,
    ERROR_REASON_CONTENT_MISMATCH,
    ERROR_REASON_FILE_NOT_FOUND,
    ERROR_REASON_FILE_TOO_LARGE,
    ERROR_REASON_SIZE_MISMATCH,
    ERROR_REASON_STORED_DATA_LOST,
    ERROR_REASON_UPLOAD_NOT_FOUND,
)
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.cli.client.caller import Caller
from services.cli.client.ending import Failed
from services.cli.client.patience import Patience
from services.cli.files.insisting import insisting, is_passing, reason
from services.cli.files.kept import Kept
from services.kit.errors import RequestIdReused

CANCEL_SECONDS = 3.0
# What was begun under a name cannot be gone on with.
_GONE = frozenset(
    {
        RequestIdReused.reason,
        reason(ERROR_REASON_UPLOAD_NOT_FOUND),
        reason(ERROR_REASON_FILE_NOT_FOUND),
    }
)
# Whatever is sent from now on, no file comes of it.
_HOPELESS = _GONE | {
    reason(ERROR_REASON_CHECKSUM_MISMATCH),
    reason(ERROR_REASON_CONTENT_MISMATCH),
    reason(ERROR_REASON_FILE_TOO_LARGE),
    reason(ERROR_REASON_SIZE_MISMATCH),
    reason(ERROR_REASON_STORED_DATA_LOST),
}


def is_hopeless(failure: Failed) -> bool:
    """Whether an upload that has failed so is of no use any more."""
    return failure.reason in _HOPELESS


class BegunUpload:
    """One upload of one version of a file, by a name that is kept if there is a place for it.

    What was begun for another version is cancelled.
    """

    def __init__(self, caller: Caller, start: pb2.UploadStart, kept: Kept | None, version: list[int]) -> None:
        self._caller = caller
        self._files = FileServiceStub(caller.channel)
        self._start = start
        self._kept = kept
        self._version = version
        known = kept.read() if kept else {}
        self._id, self._name = str(known.get("upload_id", "")), str(known.get("request_id", ""))
        self.is_known = bool(self._name) and known.get("version") == version
        """Whether an earlier run has begun it."""
        self.has_changed = bool(self._id) and not self.is_known
        """Whether an earlier run has begun one of another version."""
        if not self.is_known:
            self._name = str(uuid.uuid4())

    async def create(self, patience: Patience) -> pb2.Upload:
        """The upload as it is now. Raises Failed."""
        if self.has_changed:
            await self._cancel()
        while True:
            try:
                upload = await insisting(patience, self._create)
            except Failed as failure:
                if not self.is_known and not is_passing(failure):
                    self.forget()
                if not self.is_known or failure.reason not in _GONE:
                    raise
                self.is_known, self._name = False, str(uuid.uuid4())
            else:
                self._id = upload.id
                self._keep()
                return upload

    async def cancel(self) -> None:
        """Have the server keep nothing of it, if it can be told so in a short time."""
        self.forget()
        await self._cancel()

    def forget(self) -> None:
        """No other run will go on with it."""
        if self._kept is not None:
            self._kept.drop()

    async def _create(self) -> pb2.Upload:
        self._keep()
        self._start.request_id = self._name
        request = pb2.CreateUploadRequest(start=self._start)
        upload = (await self._caller.call(self._files.CreateUpload, request)).upload
        if upload.file_id:  # The run before was ended between the answer and its own end: unless it was deleted since.
            await self._caller.call(self._files.GetFile, pb2.GetFileRequest(id=upload.file_id))
        return upload

    async def _cancel(self) -> None:
        if not self._id:
            return
        request = pb2.CancelUploadRequest(id=self._id)
        with suppress(Failed, TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._caller.call(self._files.CancelUpload, request)

    def _keep(self) -> None:
        if self._kept is not None:
            self._kept.write({"version": self._version, "request_id": self._name, "upload_id": self._id})
