"""Between the messages of uploads and what the domain works with."""

from datetime import timedelta
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from parley.file.v1 import file_service_pb2 as pb2
from services.file.mapping.chunks import MAX_CHUNK_BYTES, KeyedChunk
from services.file.mapping.files import to_message
from services.file.models import Chunk, Finish, Progress, Resume, Start, Step, StoredFile, Upload, UploadState, Usage
from services.kit.errors import DomainError, ValidationFailed
from services.kit.status import to_stream_status
from services.kit.timestamps import to_timestamp

UploadFileMessage = pb2.UploadFileRequest | Chunk
UploadFilesMessage = pb2.UploadFilesRequest | KeyedChunk

_STATES = {UploadState.OPEN: pb2.UPLOAD_STATE_OPEN, UploadState.STORED: pb2.UPLOAD_STATE_STORED}


def to_upload(upload: Upload) -> pb2.Upload:
    """An upload as its owner sees it."""
    message = pb2.Upload(
        id=str(upload.id),
        state=_STATES[UploadState(upload.state)],
        filename=upload.filename,
        content_type=upload.content_type,
        size_bytes=upload.size_bytes,
        persisted_size=upload.persisted_size,
        create_time=to_timestamp(upload.create_time),
    )
    if upload.state == UploadState.OPEN:
        message.expire_time.CopyFrom(to_timestamp(upload.expire_time))
    if upload.file_id is not None:
        message.file_id = str(upload.file_id)
    return message


def to_start(start: pb2.UploadStart) -> Start:
    """What the client says of a file before its bytes."""
    return Start(
        start.filename,
        start.content_type,
        start.size_bytes if start.HasField("size_bytes") else None,
        sha256=start.sha256 or None,
        crc32c=start.crc32c if start.HasField("crc32c") else None,
        labels=dict(start.labels),
        request_id=UUID(start.request_id) if start.request_id else None,
    )


def to_keyed_step(request: UploadFilesMessage) -> tuple[str, Step]:
    """Which upload a message is about, and the step that it is."""
    return request if isinstance(request, KeyedChunk) else (request.key, to_step(request))


def to_step(request: UploadFileMessage | pb2.UploadFilesRequest) -> Step:
    """The step of an upload that a message is."""
    if isinstance(request, Chunk):
        return request
    match request.WhichOneof("step"):
        case "start":
            return to_start(request.start)
        case "resume":
            return Resume(UUID(request.resume.upload_id))
        case "chunk":
            chunk = request.chunk
            return Chunk(chunk.offset, chunk.data, chunk.crc32c if chunk.HasField("crc32c") else None)
        case _:  # The protos require a step.
            finish = request.finish
            return Finish(
                finish.size_bytes if finish.HasField("size_bytes") else None,
                finish.sha256 or None,
                finish.crc32c if finish.HasField("crc32c") else None,
            )


def to_rejected(error: ValidationFailed) -> tuple[str, bool]:
    """The key of the UploadFiles message that is not valid, and whether it begins an upload.

    Raises the error again if it is the key that is not valid: then nobody can tell which file is meant.
    """
    request = error.request
    if not isinstance(request, pb2.UploadFilesRequest) or any(field.field == "key" for field in error.fields):
        raise error
    return request.key, request.WhichOneof("step") in ("start", "resume")


def to_answer(key: str, answer: StoredFile | DomainError | Progress) -> pb2.UploadFilesResponse:
    """What is said of one file of an UploadFiles stream: its outcome, or how far it is."""
    match answer:
        case DomainError():
            return pb2.UploadFilesResponse(key=key, rejected=to_stream_status(answer))
        case Progress():
            ack = pb2.UploadAck(upload_id=str(answer.upload_id), persisted_size=answer.persisted_size)
            return pb2.UploadFilesResponse(key=key, ack=ack)
        case _:
            return pb2.UploadFilesResponse(key=key, completed=to_message(answer))


def to_limits(
    *,
    max_file_bytes: int,
    max_open_uploads: int,
    idle_timeout: timedelta,
    upload_expiry: timedelta,
    quota: Usage,
    used: Usage,
) -> pb2.GetUploadLimitsResponse:
    """What the server takes, and what the user has of it."""
    return pb2.GetUploadLimitsResponse(
        max_file_bytes=max_file_bytes,
        max_chunk_bytes=MAX_CHUNK_BYTES,
        max_open_uploads=max_open_uploads,
        idle_timeout=_to_duration(idle_timeout),
        quota_bytes=quota.bytes,
        quota_files=quota.files,
        used_bytes=used.bytes,
        used_files=used.files,
        upload_expiry=_to_duration(upload_expiry),
    )


def _to_duration(length: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(length)
    return duration
