"""Between messages and what the domain works with."""

from google.protobuf.duration_pb2 import Duration

from parley.file.v1 import file_service_pb2 as pb2
from services.file.models import Chunk, Finish, Piece, Start, Step, StoredFile
from services.kit.errors import DomainError, ValidationFailed
from services.kit.status import to_stream_status
from services.kit.timestamps import to_timestamp

MAX_CHUNK_BYTES = 2 * 1024 * 1024
"""As the rule of UploadChunk.data says."""


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
    )


def to_step(request: pb2.UploadFileRequest | pb2.UploadFilesRequest) -> Step:
    """The step of an upload that a message is."""
    match request.WhichOneof("step"):
        case "start":
            start = request.start
            size_bytes = start.size_bytes if start.HasField("size_bytes") else None
            return Start(start.filename, start.content_type, size_bytes)
        case "chunk":
            chunk = request.chunk
            return Chunk(chunk.offset, chunk.data, chunk.crc32c if chunk.HasField("crc32c") else None)
        case _:  # The protos require a step.
            finish = request.finish
            return Finish(finish.size_bytes if finish.HasField("size_bytes") else None, finish.sha256 or None)


def to_rejected(error: ValidationFailed) -> tuple[str, bool]:
    """The key of the UploadFiles message that is not valid, and whether it is a `start`.

    Raises the error again if it is the key that is not valid: then nobody can tell which file is meant.
    """
    request = error.request
    if not isinstance(request, pb2.UploadFilesRequest) or any(field.field == "key" for field in error.fields):
        raise error
    return request.key, request.WhichOneof("step") == "start"


def to_outcome(key: str, outcome: StoredFile | DomainError) -> pb2.UploadFilesResponse:
    """The answer to one file of an UploadFiles stream."""
    if isinstance(outcome, DomainError):
        return pb2.UploadFilesResponse(key=key, rejected=to_stream_status(outcome))
    return pb2.UploadFilesResponse(key=key, completed=to_message(outcome))


def to_chunk(piece: Piece) -> pb2.DownloadFileResponse:
    """One message of bytes of a download."""
    return pb2.DownloadFileResponse(chunk=pb2.DownloadChunk(offset=piece.offset, data=piece.data, crc32c=piece.crc32c))


def to_limits(*, max_file_bytes: int, max_open_uploads: int, idle_seconds: float) -> pb2.GetUploadLimitsResponse:
    """What the server takes."""
    return pb2.GetUploadLimitsResponse(
        max_file_bytes=max_file_bytes,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        max_open_uploads=max_open_uploads,
        idle_timeout=Duration(seconds=int(idle_seconds), nanos=int(idle_seconds % 1 * 1e9)),
    )
