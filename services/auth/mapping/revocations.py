"""Sessions that have ended, as those who verify tokens are told."""

from collections.abc import Sequence

from parley.auth.v1 import auth_service_pb2 as pb2
from services.auth.models.sessions import Revocation
from services.kit.feed import CaughtUp, Gap
from services.kit.timestamps import to_timestamp


def to_watch_response(item: Sequence[Revocation] | CaughtUp | Gap) -> pb2.WatchRevocationsResponse:
    """One message of WatchRevocations."""
    if isinstance(item, CaughtUp):
        return pb2.WatchRevocationsResponse(
            caught_up=pb2.WatchRevocationsResponse.CaughtUp(sequence=item.position),
        )
    if isinstance(item, Gap):
        return pb2.WatchRevocationsResponse(
            gap=pb2.WatchRevocationsResponse.Gap(first_sequence=item.first, last_sequence=item.last),
        )
    return pb2.WatchRevocationsResponse(revocations=[_to_revocation(row) for row in item])


def _to_revocation(row: Revocation) -> pb2.Revocation:
    return pb2.Revocation(
        sequence=row.sequence,
        session_ids=[str(session_id) for session_id in row.session_ids],
        subject_id=str(row.subject_id),
        create_time=to_timestamp(row.create_time),
        expire_time=to_timestamp(row.expire_time),
    )
