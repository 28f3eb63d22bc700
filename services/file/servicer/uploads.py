"""The RPCs by which files come in."""

import asyncio
from contextlib import aclosing
from uuid import UUID

from parley.file.v1 import file_service_pb2 as pb2
from services.file.domain.batch import UploadBatch
from services.file.domain.claims import Claims
from services.file.domain.upload import Upload
from services.file.domain.uploads import Uploads
from services.file.mapping.files import to_message
from services.file.mapping.uploads import (
    UploadFileMessage,
    UploadFilesMessage,
    to_answer,
    to_keyed_step,
    to_limits,
    to_rejected,
    to_start,
    to_step,
    to_upload,
)
from services.file.servicer.reception import Reception
from services.kit.calls import Call
from services.kit.errors import ValidationFailed
from services.kit.pages import next_page_token, read_page
from services.kit.streams import Requests, Stream

FilesStream = Stream[UploadFilesMessage, pb2.UploadFilesResponse]


class UploadServicer:
    """The uploads of the caller."""

    def __init__(self, uploads: Uploads, claims: Claims) -> None:
        self._uploads = uploads
        self._claims = claims
        self._reception = Reception()
        self._limits = uploads.limits
        self._idle_seconds = uploads.limits.idle_timeout.total_seconds()

    async def GetUploadLimits(self, request: pb2.GetUploadLimitsRequest, call: Call) -> pb2.GetUploadLimitsResponse:
        return to_limits(
            max_file_bytes=self._limits.max_file_bytes,
            max_open_uploads=self._limits.max_on_a_stream,
            idle_timeout=self._limits.idle_timeout,
            upload_expiry=self._limits.named_kept,
            quota=self._limits.quota,
            used=await self._claims.usage(call.caller.user_id),
        )

    async def CreateUpload(self, request: pb2.CreateUploadRequest, call: Call) -> pb2.CreateUploadResponse:
        upload = await self._claims.create_upload(call.caller.user_id, to_start(request.start))
        return pb2.CreateUploadResponse(upload=to_upload(upload))

    async def GetUpload(self, request: pb2.GetUploadRequest, call: Call) -> pb2.GetUploadResponse:
        upload = await self._claims.get_upload(call.caller.user_id, UUID(request.id))
        return pb2.GetUploadResponse(upload=to_upload(upload))

    async def ListUploads(self, request: pb2.ListUploadsRequest, call: Call) -> pb2.ListUploadsResponse:
        user_id = call.caller.user_id
        list_name = f"uploads of {user_id}"
        page = await self._claims.list_uploads(
            user_id, read_page(list_name, request.page_size, request.page_token, request.skip)
        )
        return pb2.ListUploadsResponse(
            uploads=[to_upload(upload) for upload in page.items],
            next_page_token=next_page_token(list_name, page.next_after),
            total_size=page.total_size,
        )

    async def CancelUpload(self, request: pb2.CancelUploadRequest, call: Call) -> pb2.CancelUploadResponse:
        await self._claims.cancel_upload(call.caller.user_id, UUID(request.id))
        return pb2.CancelUploadResponse()

    async def UploadFile(self, requests: Requests[UploadFileMessage], call: Call) -> pb2.UploadFileResponse:
        async with self._uploads.upload_file(call.caller.user_id) as upload:
            while await self._take_next(requests, upload):
                pass
            # Not before the half-close: until then a message out of turn can still come.
            return pb2.UploadFileResponse(file=to_message(await upload.commit()))

    async def UploadFiles(self, stream: FilesStream, call: Call) -> None:
        async with self._uploads.upload_files(call.caller.user_id) as batch:
            answering = asyncio.create_task(_answer(batch, stream), name="answer-uploads")
            try:
                while await self._take_next_of_many(stream.requests, batch):
                    pass
                await batch.end()
                await answering
            finally:
                answering.cancel()
                await asyncio.wait((answering,))

    async def _take_next(self, requests: Requests[UploadFileMessage], upload: Upload) -> bool:
        """Take the next message, if there is one. It is let go on return: whoever waits for another holds none."""
        async with self._reception.place() as place:
            request = await place.receive(requests, self._idle_seconds)
            if request is not None:
                await upload.take(to_step(request))
            return request is not None

    async def _take_next_of_many(self, requests: Requests[UploadFilesMessage], batch: UploadBatch) -> bool:
        async with self._reception.place() as place:
            try:
                request = await place.receive(requests, self._idle_seconds)
                if request is not None:
                    key, step = to_keyed_step(request)
                    if batch.is_busy(key):
                        place.leave()
                    await batch.take(key, step)
            except ValidationFailed as error:
                key, starts = to_rejected(error)
                await batch.reject_message(key, error, starts=starts)
                return True
            return request is not None


async def _answer(batch: UploadBatch, stream: FilesStream) -> None:
    async with aclosing(batch.answers()) as answers:
        async for key, answer in answers:
            await stream.send(to_answer(key, answer))
