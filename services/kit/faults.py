"""How a fault of the server is written to the log: what and where, without the data it was about."""

import traceback

from sqlalchemy.exc import DBAPIError


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
