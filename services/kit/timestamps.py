"""Times as messages have them."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def to_timestamp(moment: datetime) -> Timestamp:
    """The timestamp of a moment that has its zone, in a quarter of the time of Timestamp.FromDatetime."""
    return Timestamp(seconds=int(moment.timestamp()), nanos=moment.microsecond * 1000)


def to_optional_timestamp(moment: datetime | None) -> Timestamp | None:
    """The same for a moment that may not have come: the field stays unset then."""
    return None if moment is None else to_timestamp(moment)
