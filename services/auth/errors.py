"""The reasons of auth: `parley.auth.v1.ErrorReason`."""

from services.kit.errors import AlreadyExists, NotFound, Unauthenticated


class EmailTaken(AlreadyExists):
    """Somebody has registered with this address."""

    reason = "EMAIL_TAKEN"


class CredentialsInvalid(Unauthenticated):
    """The address or the password is wrong."""

    reason = "CREDENTIALS_INVALID"


class RefreshTokenInvalid(Unauthenticated):
    """The refresh token is not known, or its session has expired; sign in again."""

    reason = "REFRESH_TOKEN_INVALID"


class RefreshTokenReused(Unauthenticated):
    """The refresh token had been exchanged before, so its session is ended; sign in again."""

    reason = "REFRESH_TOKEN_REUSED"


class SessionRevoked(Unauthenticated):
    """The session has ended; sign in again."""

    reason = "SESSION_REVOKED"


class UserNotFound(NotFound):
    """The user is no longer there."""

    reason = "USER_NOT_FOUND"
