"""The RPCs about files that are stored."""

from uuid import UUID

from parley.file.v1 import file_service_pb2 as pb2
from services.file.domain.files import Files
from services.file.mapping.files import to_changes, to_message
from services.kit.calls import Call
from services.kit.pages import MAX_LIST_BYTES, fitting, read_page, token_behind


class FilesServicer:
    """The files of the caller."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def GetFile(self, request: pb2.GetFileRequest, call: Call) -> pb2.GetFileResponse:
        file = await self._files.get_file(call.caller.user_id, UUID(request.id))
        return pb2.GetFileResponse(file=to_message(file))

    async def ListFiles(self, request: pb2.ListFilesRequest, call: Call) -> pb2.ListFilesResponse:
        user_id = call.caller.user_id
        list_name = f"files of {user_id} {request.show_deleted} {request.order_by!r} {request.filter!r}"
        page = await self._files.list_files(
            user_id,
            read_page(list_name, request.page_size, request.page_token, request.skip),
            written_filter=request.filter,
            order_by=request.order_by,
            show_deleted=request.show_deleted,
        )
        files = fitting([to_message(file) for file in page.items], MAX_LIST_BYTES)
        return pb2.ListFilesResponse(
            files=files,
            next_page_token=token_behind(list_name, page, len(files), lambda file: file.id),
            total_size=page.total_size,
        )

    async def UpdateFile(self, request: pb2.UpdateFileRequest, call: Call) -> pb2.UpdateFileResponse:
        file = await self._files.update_file(call.caller.user_id, UUID(request.id), to_changes(request), request.etag)
        return pb2.UpdateFileResponse(file=to_message(file))

    async def DeleteFile(self, request: pb2.DeleteFileRequest, call: Call) -> pb2.DeleteFileResponse:
        file = await self._files.delete_file(call.caller.user_id, UUID(request.id), request.etag)
        return pb2.DeleteFileResponse(file=to_message(file))

    async def UndeleteFile(self, request: pb2.UndeleteFileRequest, call: Call) -> pb2.UndeleteFileResponse:
        file = await self._files.undelete_file(call.caller.user_id, UUID(request.id))
        return pb2.UndeleteFileResponse(file=to_message(file))

    async def PurgeFile(self, request: pb2.PurgeFileRequest, call: Call) -> pb2.PurgeFileResponse:
        await self._files.purge_file(call.caller.user_id, UUID(request.id), request.etag)
        return pb2.PurgeFileResponse()
