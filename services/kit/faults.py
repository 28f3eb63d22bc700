"""How a fault of the server is written to the log: what and where, without the data it was about."""

import traceback

import structlog
from sqlalchemy.exc import DBAPIError

from services.kit.errors import InternalFault
from services.kit.ids import uuid7

log = structlog.get_logger()


def incident_of(error: BaseException, **where: object) -> InternalFault:
    """What the client is told of a fault of the server; the log has it by the same number."""
    incident = uuid7().hex
    log.error("incident", incident=incident, **where, fault=describe_fault(error))
    return InternalFault(f"internal error, incident {incident}", metadata={"incident": incident})


def describe_fault(error: BaseException) -> str:
    """The chain of exceptions with their stacks. Texts of database errors are left out: they can quote rows."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        parts.append("".join(traceback.format_tb(current.__traceback__)) + _headline(current))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\ncaused by\n".join(parts)


def _headline(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, DBAPIError):
        return f"{name} (SQLSTATE {getattr(error.orig, 'sqlstate', None)})"
    if type(error).__module__.startswith("psycopg"):
        return f"{name} (SQLSTATE {getattr(error, 'sqlstate', None)})"
    return f"{name}: {error}"
