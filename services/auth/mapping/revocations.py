"""Sessions that have ended, as those who verify tokens are told."""

from collections.abc import Iterator, Sequence

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.models.sessions import Revocation
from services.kit.feed import CaughtUp, Gap
from services.kit.timestamps import to_timestamp

SESSIONS_IN_A_MESSAGE = 10_000
"""An id takes 38 bytes, and a message of 4 MiB is refused: the stream would break there again and again."""


def to_watch_responses(item: Sequence[Revocation] | CaughtUp | Gap) -> Iterator[pb2.WatchRevocationsResponse]:
    """The messages of WatchRevocations that say this, none of them too large to be sent."""
    if isinstance(item, CaughtUp):
        yield pb2.WatchRevocationsResponse(
            caught_up=pb2.WatchRevocationsResponse.CaughtUp(sequence=item.position),
        )
    elif isinstance(item, Gap):
        yield pb2.WatchRevocationsResponse(
            gap=pb2.WatchRevocationsResponse.Gap(first_sequence=item.first, last_sequence=item.last),
        )
    else:
        for rows in _portions(item):
            yield pb2.WatchRevocationsResponse(revocations=[_to_revocation(row) for row in rows])


def _portions(rows: Sequence[Revocation]) -> Iterator[Sequence[Revocation]]:
    """The rows in order, of at most SESSIONS_IN_A_MESSAGE sessions in all, or a single one."""
    portion: list[Revocation] = []
    size = 0
    for row in rows:
        if portion and size + len(row.session_ids) > SESSIONS_IN_A_MESSAGE:
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += len(row.session_ids)
    if portion:
        yield portion


def _to_revocation(row: Revocation) -> pb2.Revocation:
    return pb2.Revocation(
        sequence=row.sequence,
        session_ids=[str(session_id) for session_id in row.session_ids],
        subject_id=str(row.subject_id),
        create_time=to_timestamp(row.create_time),
        expire_time=to_timestamp(row.expire_time),
    )
