"""The kinds of failure that the domain raises. `kit.status` alone maps them to gRPC.

A service declares its failures as subclasses; the docstring is the message that the client sees:

    class RoomNotFound(NotFound):
        \"\"\"There is no such room.\"\"\"

        reason = "ROOM_NOT_FOUND"

`reason` is the name of a value of the service's `ErrorReason` enum in the protos, without the prefix.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule: its path in the request, such as `agent.name`, and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One limit that was reached: what it is a limit of, such as `user:<id>`, and what the limit is."""

    subject: str
    description: str


class DomainError(Exception):
    """Base of every failure that a client is meant to see."""

    reason: ClassVar[str]

    def __init__(
        self,
        message: str | None = None,
        *,
        fields: Sequence[FieldViolation] = (),
        quota: Sequence[QuotaViolation] = (),
        retry_after: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or "").replace("\n", " "))
        self.fields = fields
        self.quota = quota
        self.retry_after = retry_after
        self.metadata = metadata or {}


class InvalidArgument(DomainError):
    """The request is wrong, whatever the state of the system."""


class OutOfRange(DomainError):
    """The request goes beyond the end of what there is."""


class Unauthenticated(DomainError):
    """Who is calling is not known."""


class PermissionDenied(DomainError):
    """The caller is known and may not do this."""


class NotFound(DomainError):
    """What is asked for does not exist, or the caller may not see it."""


class AlreadyExists(DomainError):
    """What is to be created exists."""


class FailedPrecondition(DomainError):
    """The state of the system does not allow this now; the caller has to change it first."""


class Aborted(DomainError):
    """Somebody else was faster; read again and repeat."""


class ResourceExhausted(DomainError):
    """A limit was reached."""


class Unavailable(DomainError):
    """It cannot be done at the moment; calling again helps."""


class DeadlineExceeded(DomainError):
    """It took too long."""


class DataLoss(DomainError):
    """What was stored is gone or wrong."""


class Unimplemented(DomainError):
    """The server has no such method."""


class Internal(DomainError):
    """A fault of the server."""


# What follows can be raised by any service: `parley.common.v1.ErrorReason`.


class ValidationFailed(InvalidArgument):
    """The request breaks the rules of its fields."""

    reason = "VALIDATION_FAILED"
    request: object | None = None
    """The message that breaks them, for a stream that answers it and goes on."""


class RequestMalformed(InvalidArgument):
    """The bytes sent are not a message of the request's type."""

    reason = "REQUEST_MALFORMED"


class RequestTooLarge(ResourceExhausted):
    """The request is larger than this method takes."""

    reason = "REQUEST_TOO_LARGE"


class TokenMissing(Unauthenticated):
    """This call needs an access token: send `authorization: Bearer <token>` as metadata."""

    reason = "TOKEN_MISSING"


class TokenInvalid(Unauthenticated):
    """The access token is not valid here."""

    reason = "TOKEN_INVALID"


class TokenExpired(Unauthenticated):
    """The access token has expired; refresh it."""

    reason = "TOKEN_EXPIRED"


class SessionRevoked(Unauthenticated):
    """The session has ended; sign in again."""

    reason = "SESSION_REVOKED"


class AccessDenied(PermissionDenied):
    """This call is not open to callers of this kind."""

    reason = "ACCESS_DENIED"


class PageTokenInvalid(InvalidArgument):
    """The page token was not made by this list with these arguments; start from the first page."""

    reason = "PAGE_TOKEN_INVALID"


class FilterInvalid(InvalidArgument):
    """The filter is not one that this list understands."""

    reason = "FILTER_INVALID"


class UpdateMaskInvalid(InvalidArgument):
    """The update mask names a field that does not exist or cannot be changed."""

    reason = "UPDATE_MASK_INVALID"


class RequestIdReused(AlreadyExists):
    """This request_id was used before with another payload."""

    reason = "REQUEST_ID_REUSED"


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached at the moment."""

    reason = "DATABASE_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=1))


class DependencyUnavailable(Unavailable):
    """Another service that this call needs cannot be reached at the moment."""

    reason = "DEPENDENCY_UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=1))


class ShuttingDown(Unavailable):
    """The server is being stopped; connect again."""

    reason = "SHUTTING_DOWN"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(milliseconds=500))


class Overloaded(ResourceExhausted):
    """The server has as much of this kind of work as it takes at a time."""

    reason = "OVERLOADED"


class CallTooLong(DeadlineExceeded):
    """The call took longer than its deadline."""

    reason = "DEADLINE_EXCEEDED"


class MethodUnknown(Unimplemented):
    """The server has no such method."""

    reason = "METHOD_UNKNOWN"


class InternalFault(Internal):
    """A fault of the server."""

    reason = "INTERNAL"
