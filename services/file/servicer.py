"""`parley.file.v1.FileService`: protobuf in, one call of the domain, protobuf out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

from parley.file.v1 import file_service_pb2 as pb2
from services.file.domain.downloads import Downloads
from services.file.domain.files import Files
from services.file.domain.uploads import Uploads
from services.file.mapping import to_chunk, to_limits, to_message, to_outcome, to_rejected, to_step
from services.kit.calls import Call
from services.kit.errors import ValidationFailed
from services.kit.pages import next_page_token, read_page
from services.kit.streams import Requests, Stream


class FileServicer:
    """Files: those of the caller, and to read also those that are shared with the caller."""

    def __init__(self, uploads: Uploads, downloads: Downloads, files: Files) -> None:
        self._uploads = uploads
        self._downloads = downloads
        self._files = files
        self._idle_seconds = uploads.limits.idle_timeout.total_seconds()

    async def GetUploadLimits(self, request: pb2.GetUploadLimitsRequest, call: Call) -> pb2.GetUploadLimitsResponse:
        limits = self._uploads.limits
        return to_limits(
            max_file_bytes=limits.max_file_bytes,
            max_open_uploads=limits.max_on_a_stream,
            idle_seconds=self._idle_seconds,
        )

    async def UploadFile(self, requests: Requests[pb2.UploadFileRequest], call: Call) -> pb2.UploadFileResponse:
        async with self._uploads.upload_file(call.caller.user_id) as upload:
            while (request := await requests.receive(self._idle_seconds)) is not None:
                await upload.take(to_step(request))
            # Not before the half-close: until then a message out of turn can still come.
            return pb2.UploadFileResponse(file=to_message(await upload.commit()))

    async def UploadFiles(self, stream: Stream[pb2.UploadFilesRequest, pb2.UploadFilesResponse], call: Call) -> None:
        async with self._uploads.upload_files(call.caller.user_id) as batch:
            while True:
                try:
                    request = await stream.requests.receive(self._idle_seconds)
                    if request is None:
                        break
                    key = request.key
                    outcome = await batch.take(key, to_step(request))
                except ValidationFailed as error:
                    key, starts = to_rejected(error)
                    outcome = await batch.reject_message(key, error, starts=starts)
                if outcome is not None:
                    await stream.send(to_outcome(key, outcome))
            for key, outcome in await batch.end():
                await stream.send(to_outcome(key, outcome))

    async def DownloadFile(
        self, request: pb2.DownloadFileRequest, call: Call
    ) -> AsyncIterator[pb2.DownloadFileResponse]:
        async with self._downloads.download_file(
            call.caller.user_id, UUID(request.id), request.offset, request.limit
        ) as download:
            yield pb2.DownloadFileResponse(file=to_message(download.file))
            async with aclosing(download.pieces()) as pieces:
                async for piece in pieces:
                    yield to_chunk(piece)

    async def GetFile(self, request: pb2.GetFileRequest, call: Call) -> pb2.GetFileResponse:
        file = await self._files.get_file(call.caller.user_id, UUID(request.id))
        return pb2.GetFileResponse(file=to_message(file))

    async def ListFiles(self, request: pb2.ListFilesRequest, call: Call) -> pb2.ListFilesResponse:
        user_id = call.caller.user_id
        list_name = f"files of {user_id}"
        page = await self._files.list_files(
            user_id, read_page(list_name, request.page_size, request.page_token, request.skip)
        )
        return pb2.ListFilesResponse(
            files=[to_message(file) for file in page.items],
            next_page_token=next_page_token(list_name, page.next_after),
            total_size=page.total_size,
        )

    async def DeleteFile(self, request: pb2.DeleteFileRequest, call: Call) -> pb2.DeleteFileResponse:
        await self._files.delete_file(call.caller.user_id, UUID(request.id))
        return pb2.DeleteFileResponse()
