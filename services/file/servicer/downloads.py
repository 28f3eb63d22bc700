"""The RPC that gives out the bytes of files."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from uuid import UUID

from parley.file.v1 import file_service_pb2 as pb2
from services.file.domain.downloads import Downloads
from services.file.mapping.downloads import to_chunk, to_trailer
from services.file.mapping.files import to_message
from services.kit.calls import Call
from services.kit.errors import CallTooLong

PIECE_PATIENCE = 10


class DownloadServicer:
    """The bytes of files that the caller may read."""

    def __init__(self, downloads: Downloads, *, idle_timeout: timedelta) -> None:
        """A client may take PIECE_PATIENCE times `idle_timeout` for a piece: meanwhile two parts wait in memory."""
        self._downloads = downloads
        self._piece_seconds = PIECE_PATIENCE * idle_timeout.total_seconds()

    async def DownloadFile(
        self, request: pb2.DownloadFileRequest, call: Call
    ) -> AsyncIterator[pb2.DownloadFileResponse | bytes]:
        async with self._downloads.download_file(
            call.caller.user_id, UUID(request.id), request.offset, request.limit, request.if_etag
        ) as download:
            yield pb2.DownloadFileResponse(file=to_message(download.file))
            async with aclosing(download.pieces(to_chunk)) as pieces:
                async for piece in pieces:
                    stopped = CallTooLong("Nothing was read for too long.")
                    patience = asyncio.get_running_loop().call_later(self._piece_seconds, call.end, stopped)
                    try:
                        yield piece
                    finally:
                        patience.cancel()
            yield to_trailer(download.size_bytes, download.sent_crc32c)
