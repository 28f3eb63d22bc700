"""The audit log."""

from uuid import UUID

from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.models.audit import AuditEvent
from services.kit.timestamps import to_timestamp


def to_audit_event(row: AuditEvent) -> pb2.AuditEvent:
    """An event."""
    return pb2.AuditEvent(
        id=str(row.id),
        type=pb2.AuditEvent.Type.Value(f"TYPE_{row.type}"),
        create_time=to_timestamp(row.create_time),
        actor_id=_text(row.actor_id),
        subject_id=_text(row.subject_id),
        session_id=_text(row.session_id),
        address=row.address,
        user_agent=row.user_agent,
        details=row.details,
    )


def _text(id_: UUID | None) -> str:
    return "" if id_ is None else str(id_)
