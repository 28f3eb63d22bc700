"""From the domain's failures to `google.rpc.Status`: the only code that knows gRPC's codes."""

from collections.abc import Iterable, Iterator

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb2
from google.rpc import status_pb2

from parley.common.v1 import status_pb2 as parley_status_pb2
from services.kit import errors

DOMAIN = "parley"

# A client takes 8 KiB of trailers, and the status is in them twice: as text, and in base64.
MAX_VIOLATIONS = 10
MAX_FIELD_CHARACTERS = 100
MAX_TEXT_CHARACTERS = 200

_CODES: tuple[tuple[type[errors.DomainError], grpc.StatusCode], ...] = (
    (errors.InvalidArgument, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.OutOfRange, grpc.StatusCode.OUT_OF_RANGE),
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (errors.FailedPrecondition, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.Aborted, grpc.StatusCode.ABORTED),
    (errors.ResourceExhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.Unavailable, grpc.StatusCode.UNAVAILABLE),
    (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
    (errors.DataLoss, grpc.StatusCode.DATA_LOSS),
    (errors.Unimplemented, grpc.StatusCode.UNIMPLEMENTED),
    (errors.Internal, grpc.StatusCode.INTERNAL),
)


def code_of(error: errors.DomainError) -> grpc.StatusCode:
    """The gRPC code of a failure, by its kind."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def to_rpc_status(error: errors.DomainError) -> status_pb2.Status:
    """The whole of a failure as `google.rpc.Status`: code, message, ErrorInfo, and the details that apply (AIP-193)."""
    return status_pb2.Status(
        code=code_of(error).value[0], message=str(error), details=[_packed(d) for d in _details(error)]
    )


def to_stream_status(error: errors.DomainError) -> parley_status_pb2.Status:
    """The same, for a failure that is reported inside a stream that goes on."""
    return parley_status_pb2.Status.FromString(to_rpc_status(error).SerializeToString())


def reason_in(trailers: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The reason that a call of ours has failed for, by the metadata at its end; empty if it does not say."""
    for key, value in trailers or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            info = details_pb2.ErrorInfo()
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Unpack(info):
                    return str(info.reason)
    return ""


def _details(error: errors.DomainError) -> Iterator[Message]:
    yield details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    if error.fields:
        yield details_pb2.BadRequest(
            field_violations=[
                details_pb2.BadRequest.FieldViolation(
                    field=_short(v.field, MAX_FIELD_CHARACTERS), description=_short(v.description, MAX_TEXT_CHARACTERS)
                )
                for v in error.fields[:MAX_VIOLATIONS]
            ]
        )
    if error.quota:
        yield details_pb2.QuotaFailure(
            violations=[
                details_pb2.QuotaFailure.Violation(subject=v.subject, description=v.description) for v in error.quota
            ]
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_after)
        yield details_pb2.RetryInfo(retry_delay=delay)


def _short(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
