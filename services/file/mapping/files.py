"""Files, between messages and what the domain works with."""

from typing import cast

from parley.file.v1 import file_service_pb2 as pb2
from services.file.models import FileChanges, StoredFile
from services.kit.errors import FieldViolation, ValidationFailed
from services.kit.masks import masked_fields
from services.kit.messages import violations
from services.kit.timestamps import stamp, to_optional_timestamp

_CHANGEABLE = list(pb2.FilePatch.DESCRIPTOR.fields_by_name)


def to_message(file: StoredFile) -> pb2.File:
    """A file as those see it who may."""
    message = pb2.File(
        id=str(file.id),
        user_id=str(file.user_id),
        filename=file.filename,
        content_type=file.content_type,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        crc32c=file.crc32c,
        sniffed_content_type=file.sniffed_content_type,
        labels=file.labels,
        etag=file.etag,
        delete_time=to_optional_timestamp(file.delete_time),
        purge_time=to_optional_timestamp(file.purge_time),
    )
    stamp(message.create_time, file.create_time)
    stamp(message.update_time, file.update_time)
    return message


def to_changes(request: pb2.UpdateFileRequest) -> FileChanges:
    """What the request wants to change. Raises UpdateMaskInvalid, and ValidationFailed as an upload's start would."""
    paths = masked_fields(request.update_mask.paths, _CHANGEABLE)
    values = {path: getattr(request.file, path) for path in paths}
    found = violations(pb2.UploadStart(**values))
    # A violation within the labels is named `labels[key]`.
    if broken := [violation for violation in found if violation.field.partition("[")[0] in values]:
        raise ValidationFailed(fields=[FieldViolation(f"file.{v.field}", v.description) for v in broken])
    if "labels" in values:
        values["labels"] = dict(request.file.labels)
    return cast("FileChanges", values)  # the paths are fields of FilePatch, and so are the keys of FileChanges
