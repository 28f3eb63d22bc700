"""The reasons of chat: `parley.chat.v1.ErrorReason`."""

from uuid import UUID

from services.kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
)


class RoomNotFound(NotFound):
    """There is no such room."""

    reason = "ROOM_NOT_FOUND"


class NotAMember(FailedPrecondition):
    """You are not a member of this room; join it first."""

    reason = "NOT_A_MEMBER"


class ClientMessageIdReused(AlreadyExists):
    """You have sent another message with this client_message_id to this room; nothing was stored this time."""

    reason = "CLIENT_MESSAGE_ID_REUSED"


class CursorInvalid(OutOfRange):
    """The cursor lies beyond the room's last event, so it is not a cursor of this room."""

    reason = "CURSOR_INVALID"


class HelloExpected(InvalidArgument):
    """The first message of a Connect stream has to be `hello`, and no other may be."""

    reason = "HELLO_EXPECTED"


class TooManySubscriptions(ResourceExhausted):
    """This stream follows as many rooms as one stream may; unsubscribe from one, or open another stream."""

    reason = "TOO_MANY_SUBSCRIPTIONS"


class FileNotFound(NotFound):
    """There is no such file, or you may not read it; nothing was stored."""

    reason = "FILE_NOT_FOUND"

    def __init__(self, file_id: UUID) -> None:
        super().__init__(metadata={"file_id": str(file_id)})
