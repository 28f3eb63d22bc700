"""Times as messages have them."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_timestamp(moment: datetime) -> Timestamp:
    """The timestamp of a moment that has its zone, in a quarter of the time of Timestamp.FromDatetime."""
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)


def stamp(timestamp: Timestamp, moment: datetime) -> None:
    """Set a timestamp that is a field of a message: for paths on which its copying is too much."""
    since = moment - _EPOCH
    timestamp.seconds = since.days * 86_400 + since.seconds
    timestamp.nanos = since.microseconds * 1000


def to_optional_timestamp(moment: datetime | None) -> Timestamp | None:
    """The same for a moment that may not have come: the field stays unset then."""
    return None if moment is None else to_timestamp(moment)
