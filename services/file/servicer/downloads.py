"""The RPC that gives out the bytes of files."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

from parley.file.v1 import file_service_pb2 as pb2
from services.file.domain.downloads import Downloads
from services.file.mapping.downloads import to_chunk, to_trailer
from services.file.mapping.files import to_message
from services.kit.calls import Call


class DownloadServicer:
    """The bytes of files that the caller may read."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads

    async def DownloadFile(
        self, request: pb2.DownloadFileRequest, call: Call
    ) -> AsyncIterator[pb2.DownloadFileResponse | bytes]:
        async with self._downloads.download_file(
            call.caller.user_id, UUID(request.id), request.offset, request.limit, request.if_etag
        ) as download:
            yield pb2.DownloadFileResponse(file=to_message(download.file))
            async with aclosing(download.pieces(to_chunk)) as pieces:
                async for piece in pieces:
                    yield piece
            yield to_trailer(download.size_bytes, download.sent_crc32c)
