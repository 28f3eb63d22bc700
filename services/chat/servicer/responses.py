"""From notices to serialised responses: as much in each as there is to say."""

from collections.abc import Iterator, Sequence
from functools import singledispatch

from google.protobuf.duration_pb2 import Duration

from parley.chat.v1 import chat_service_pb2 as pb2
from services.chat.domain import notices
from services.chat.domain.presence import Change
from services.chat.mapping import to_ack, to_events_field, to_room
from services.kit.status import to_stream_status
from services.kit.timestamps import to_timestamp

# Far below the 4 MiB that a gRPC client takes by default.
MAX_EVENTS_BYTES = 512 * 1024

_CHANGES = {
    Change.PRESENT: pb2.Presence.CHANGE_PRESENT,
    Change.JOINED: pb2.Presence.CHANGE_JOINED,
    Change.LEFT: pb2.Presence.CHANGE_LEFT,
}


def connect_responses(told: Sequence[notices.Notice]) -> Iterator[bytes]:
    """What a Connect stream is told, in that order: events stand before the notice of their response."""
    parts: list[bytes] = []
    size = 0
    for notice in told:
        if isinstance(notice, notices.Events):
            for event in notice.events:
                part = to_events_field(event)
                if parts and size + len(part) > MAX_EVENTS_BYTES:
                    yield b"".join(parts)
                    parts, size = [], 0
                parts.append(part)
                size += len(part)
        else:
            parts.append(_response(notice).SerializeToString())
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def watch_responses(told: notices.Events | notices.RoomCaughtUp | notices.RoomGap) -> Iterator[bytes]:
    """What a WatchRoom stream is told next. The fields have other numbers here, but for the events."""
    if isinstance(told, notices.RoomCaughtUp):
        yield pb2.WatchRoomResponse(caught_up=_response(told).caught_up).SerializeToString()
    elif isinstance(told, notices.RoomGap):
        yield pb2.WatchRoomResponse(gap=_response(told).gap).SerializeToString()
    else:
        yield from connect_responses([told])


@singledispatch
def _response(notice: notices.Notice) -> pb2.ConnectResponse:
    raise TypeError(type(notice).__name__)


@_response.register
def _(notice: notices.Welcome) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(
        welcome=pb2.ConnectResponse.Welcome(
            connection_id=str(notice.connection_id),
            user_id=str(notice.user_id),
            max_subscriptions=notice.max_subscriptions,
        )
    )


@_response.register
def _(notice: notices.Subscribed) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(
        subscribed=pb2.ConnectResponse.Subscribed(room=to_room(notice.room), after_sequence=notice.after)
    )


@_response.register
def _(notice: notices.Unsubscribed) -> pb2.ConnectResponse:
    reason = None if notice.reason is None else to_stream_status(notice.reason)
    return pb2.ConnectResponse(
        unsubscribed=pb2.ConnectResponse.Unsubscribed(room_id=str(notice.room_id), reason=reason)
    )


@_response.register
def _(notice: notices.Ack) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(ack=to_ack(notice.message))


@_response.register
def _(notice: notices.Nack) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(
        nack=pb2.ConnectResponse.Nack(
            room_id=notice.room_id,
            client_message_id=notice.client_message_id,
            status=to_stream_status(notice.reason),
        )
    )


@_response.register
def _(notice: notices.RoomCaughtUp) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(caught_up=pb2.CaughtUp(room_id=str(notice.room_id), sequence=notice.sequence))


@_response.register
def _(notice: notices.RoomGap) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(
        gap=pb2.Gap(room_id=str(notice.room_id), first_sequence=notice.first, last_sequence=notice.last)
    )


@_response.register
def _(notice: notices.PresenceChanged) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(
        presence=pb2.Presence(room_id=str(notice.room_id), user_id=str(notice.user_id), change=_CHANGES[notice.change])
    )


@_response.register
def _(notice: notices.GoAway) -> pb2.ConnectResponse:
    reconnect_after = Duration()
    reconnect_after.FromTimedelta(notice.reconnect_after)
    return pb2.ConnectResponse(go_away=pb2.ConnectResponse.GoAway(reconnect_after=reconnect_after))


@_response.register
def _(notice: notices.TokenExpiring) -> pb2.ConnectResponse:
    expire_time = to_timestamp(notice.expire_time)
    return pb2.ConnectResponse(token_expiring=pb2.ConnectResponse.TokenExpiring(expire_time=expire_time))


@_response.register
def _(notice: notices.Reauthenticated) -> pb2.ConnectResponse:
    expire_time = to_timestamp(notice.expire_time)
    return pb2.ConnectResponse(reauthenticated=pb2.ConnectResponse.Reauthenticated(expire_time=expire_time))


@_response.register
def _(notice: notices.Pong) -> pb2.ConnectResponse:
    return pb2.ConnectResponse(pong=pb2.ConnectResponse.Pong(nonce=notice.nonce))
