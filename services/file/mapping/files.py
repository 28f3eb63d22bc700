"""Between the messages of files and what the domain works with."""

from parley.file.v1 import file_service_pb2 as pb2
from services.file.models import Piece, StoredFile
from services.kit.timestamps import to_timestamp


def to_message(file: StoredFile) -> pb2.File:
    """A file as its owner sees it."""
    return pb2.File(
        id=str(file.id),
        user_id=str(file.user_id),
        filename=file.filename,
        content_type=file.content_type,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        create_time=to_timestamp(file.create_time),
        crc32c=file.crc32c,
        sniffed_content_type=file.sniffed_content_type,
        labels=file.labels,
        etag=file.etag,
        update_time=to_timestamp(file.update_time),
    )


def to_chunk(piece: Piece) -> pb2.DownloadFileResponse:
    """One message of bytes of a download."""
    return pb2.DownloadFileResponse(chunk=pb2.DownloadChunk(offset=piece.offset, data=piece.data, crc32c=piece.crc32c))
