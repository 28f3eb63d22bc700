"""The part of UserService that is about the audit log."""

from parley.auth.v1 import user_service_pb2 as pb2
from services.auth.domain.audit_log import AuditLog
from services.auth.mapping.audit import to_audit_event
from services.auth.servicer.actor import actor_of
from services.kit.calls import Call
from services.kit.pages import next_page_token, read_page


class AuditRpcs:
    """Reading the audit log."""

    def __init__(self, audit_log: AuditLog) -> None:
        self._audit_log = audit_log

    async def ListAuditEvents(self, request: pb2.ListAuditEventsRequest, call: Call) -> pb2.ListAuditEventsResponse:
        list_name = f"audit events that are {request.filter}"
        page = await self._audit_log.list_audit_events(
            actor_of(call),
            read_page(list_name, request.page_size, request.page_token, request.skip),
            request.filter,
        )
        return pb2.ListAuditEventsResponse(
            audit_events=[to_audit_event(event) for event in page.items],
            next_page_token=next_page_token(list_name, page.next_after),
            total_size=page.total_size,
        )
