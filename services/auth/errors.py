"""The reasons of auth: `parley.auth.v1.ErrorReason`."""

from services.kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
)


class EmailTaken(AlreadyExists):
    """Somebody has registered with this address."""

    reason = "EMAIL_TAKEN"


class CredentialsInvalid(Unauthenticated):
    """The address and the password, or a service's name and secret, do not belong together."""

    reason = "CREDENTIALS_INVALID"


class RefreshTokenInvalid(Unauthenticated):
    """The refresh token is not known, or its session has expired; sign in again."""

    reason = "REFRESH_TOKEN_INVALID"


class RefreshTokenReused(Unauthenticated):
    """The refresh token had been exchanged before, so its session is ended; sign in again."""

    reason = "REFRESH_TOKEN_REUSED"


class UserNotFound(NotFound):
    """There is no such user."""

    reason = "USER_NOT_FOUND"


class PasswordWeak(InvalidArgument):
    """The password is not good enough; the field violation says why."""

    reason = "PASSWORD_WEAK"


class PasswordWrong(InvalidArgument):
    """The current password is another one."""

    reason = "PASSWORD_WRONG"


class TooManyAttempts(ResourceExhausted):
    """Too many failures or requests; wait before trying again."""

    reason = "TOO_MANY_ATTEMPTS"


class PasswordLocked(FailedPrecondition):
    """After 100 failures in succession no password is taken; reset it by mail."""

    reason = "PASSWORD_LOCKED"


class UserDisabled(PermissionDenied):
    """The user was disabled or deleted."""

    reason = "USER_DISABLED"


class CodeInvalid(InvalidArgument):
    """The code is unknown, used, too old, or was tried too often; ask for a new one."""

    reason = "CODE_INVALID"


class EmailAlreadyVerified(FailedPrecondition):
    """The address is verified already."""

    reason = "EMAIL_ALREADY_VERIFIED"


class SessionNotFound(NotFound):
    """The caller has no such session."""

    reason = "SESSION_NOT_FOUND"


class EtagMismatch(Aborted):
    """The user has another etag by now; read it again."""

    reason = "ETAG_MISMATCH"


class CursorInvalid(OutOfRange):
    """The cursor lies beyond the last sequence; follow from 0."""

    reason = "CURSOR_INVALID"


class UserNotDeleted(FailedPrecondition):
    """The user is not deleted."""

    reason = "USER_NOT_DELETED"


class UserPurging(FailedPrecondition):
    """The user is being removed for good."""

    reason = "USER_PURGING"


class OwnAccount(FailedPrecondition):
    """An administrator cannot do this to its own account."""

    reason = "OWN_ACCOUNT"


class ServiceAccountNotFound(NotFound):
    """There is no such service account."""

    reason = "SERVICE_ACCOUNT_NOT_FOUND"


class ServiceAccountExists(AlreadyExists):
    """There is a service account of this name."""

    reason = "SERVICE_ACCOUNT_EXISTS"


class SigningKeyNotFound(NotFound):
    """There is no such signing key."""

    reason = "SIGNING_KEY_NOT_FOUND"


class SigningKeyTooYoung(FailedPrecondition):
    """Not every verifier can have the key yet."""

    reason = "SIGNING_KEY_TOO_YOUNG"


class SigningKeyActive(FailedPrecondition):
    """The key signs tokens; activate another one first."""

    reason = "SIGNING_KEY_ACTIVE"


class SigningKeyRetired(FailedPrecondition):
    """The key was retired, which cannot be undone."""

    reason = "SIGNING_KEY_RETIRED"
