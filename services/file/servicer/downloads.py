"""`parley.file.v1.FileService`: protobuf in, one call of the domain, protobuf out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

from parley.file.v1 import file_service_pb2 as pb2
from services.file.domain.downloads import Downloads
from services.file.domain.files import Files
from services.file.mapping.files import to_chunk, to_message
from services.kit.calls import Call
from services.kit.pages import next_page_token, read_page


class FilesServicer:
    """Files: those of the caller, and to read also those that are shared with the caller."""

    def __init__(self, downloads: Downloads, files: Files) -> None:
        self._downloads = downloads
        self._files = files

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

    async def UpdateFile(self, request: pb2.UpdateFileRequest, call: Call) -> pb2.UpdateFileResponse:
        raise NotImplementedError

    async def UndeleteFile(self, request: pb2.UndeleteFileRequest, call: Call) -> pb2.UndeleteFileResponse:
        raise NotImplementedError

    async def PurgeFile(self, request: pb2.PurgeFileRequest, call: Call) -> pb2.PurgeFileResponse:
        raise NotImplementedError
