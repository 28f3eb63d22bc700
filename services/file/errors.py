"""Why something about files failed: the reasons of `parley.file.v1.ErrorReason`."""

from datetime import timedelta

from services.kit.errors import (
    Aborted,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    QuotaViolation,
    ResourceExhausted,
    Unavailable,
)


class FileNotFound(NotFound):
    """There is no such file."""

    reason = "FILE_NOT_FOUND"


class FileNotDeleted(FailedPrecondition):
    """The file is not deleted."""

    reason = "FILE_NOT_DELETED"


class EtagMismatch(Aborted):
    """The file is not the one whose etag was sent; read it again and repeat."""

    reason = "ETAG_MISMATCH"


class FileTooLarge(ResourceExhausted):
    """The file is larger than this server takes."""

    reason = "FILE_TOO_LARGE"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(quota=[QuotaViolation("file", f"a file may have at most {max_bytes} bytes")])


class ChunkCorrupt(InvalidArgument):
    """The chunk's bytes do not have the crc32c that was sent with them."""

    reason = "CHUNK_CORRUPT"


class OffsetMismatch(OutOfRange):
    """The chunk's offset is not where the upload stands."""

    reason = "OFFSET_MISMATCH"

    def __init__(self, expected: int) -> None:
        super().__init__(metadata={"expected_offset": str(expected)})


class SizeMismatch(InvalidArgument):
    """The bytes received are not as many as were declared."""

    reason = "SIZE_MISMATCH"


class ChecksumMismatch(InvalidArgument):
    """The bytes received do not have the SHA-256 or the crc32c that was declared."""

    reason = "CHECKSUM_MISMATCH"


class UploadIncomplete(InvalidArgument):
    """The stream ended before `finish`. What is kept of an upload with a name is told; of another one nothing is."""

    reason = "UPLOAD_INCOMPLETE"

    def __init__(self, persisted: int | None = None) -> None:
        super().__init__(metadata={} if persisted is None else {"persisted_size": str(persisted)})


class UploadNotFound(NotFound):
    """There is no such upload, or it is somebody else's, or it was cancelled or has expired."""

    reason = "UPLOAD_NOT_FOUND"


class UploadTakenOver(Aborted):
    """Another stream has resumed the upload since."""

    reason = "UPLOAD_TAKEN_OVER"


class UploadFinished(FailedPrecondition):
    """The upload is a file already and cannot be cancelled: delete the file."""

    reason = "UPLOAD_FINISHED"


class ContentMismatch(InvalidArgument):
    """Bytes that were sent again are not those that were sent before."""

    reason = "CONTENT_MISMATCH"


class QuotaExceeded(ResourceExhausted):
    """The caller's files and unfinished uploads would have more bytes, or be more, than the caller may have."""

    reason = "QUOTA_EXCEEDED"

    def __init__(self, max_bytes: int, max_files: int) -> None:
        text = f"at most {max_bytes} bytes in at most {max_files} files and unfinished uploads"
        super().__init__(quota=[QuotaViolation("user", text)])


class UploadOutOfTurn(InvalidArgument):
    """The message came out of turn: an upload is one `start`, any number of `chunk`, and one `finish`."""

    reason = "UPLOAD_OUT_OF_TURN"


class RangeInvalid(OutOfRange):
    """The offset lies beyond the end of the file."""

    reason = "RANGE_INVALID"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(metadata={"size_bytes": str(size_bytes)})


class StoredDataLost(DataLoss):
    """The stored bytes of the file are gone or are not those that were uploaded."""

    reason = "STORED_DATA_LOST"


class TooManyOpenUploads(ResourceExhausted):
    """More files are open on this stream than it may have at a time: finish one first."""

    reason = "TOO_MANY_OPEN_UPLOADS"

    def __init__(self, most: int) -> None:
        super().__init__(quota=[QuotaViolation("stream", f"at most {most} files may be open at a time")])


class StoreUnavailable(Unavailable):
    """The store of files cannot be written or read at the moment."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=5))
