"""The `filter` of lists: comparisons joined by `AND`, a part of AIP-160.

A list says once which fields its filter may name, and turns what a request says into conditions of its statement:

    USERS = Filter({"full_name": caseless(UserTable.full_name), "create_time": moment(UserTable.create_time)})
    conditions = USERS.read('full_name:"ann" AND create_time >= 2026-01-01T00:00:00Z')

Values stand in quotes of either kind, in which a backslash goes before a quote or a backslash, or bare if they are
made of letters, digits and `_ . : @ + / -`. Everything else, `OR`, `NOT` and parentheses included, is refused with
FilterInvalid, whose violation of the field `filter` says what is wrong and where.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func
from sqlalchemy.orm import InstrumentedAttribute

from services.kit.errors import FieldViolation, FilterInvalid

MAX_LENGTH = 500
MAX_COMPARISONS = 10

Column = ColumnElement[Any] | InstrumentedAttribute[Any]

_COMPARISON = re.compile(
    r"""(?P<field>[a-z][a-z0-9_]*)\s*(?P<operator><=|>=|!=|[<>=:])\s*"""
    r"""(?:"(?P<double>(?:[^"\\\0]|\\["'\\])*)"|'(?P<single>(?:[^'\\\0]|\\["'\\])*)'|(?P<bare>[\w.:@+/-]+))""",
)
_AND = re.compile(r"\s+AND(?:\s+|\Z)")
_KEYWORDS = frozenset({"AND", "OR", "NOT"})
_ESCAPED = re.compile(r"\\(.)")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Field:
    """What a filter may say about one field: with which operators, and how a value is read.

    `read` raises ValueError with what a value must be.
    """

    operators: Mapping[str, Callable[[Any], ColumnElement[bool]]]
    read: Callable[[str], Any]


def text(column: Column) -> Field:
    """Text that is equal or not: `=`."""
    return Field({"=": lambda value: column == value}, str)


def caseless(column: Column) -> Field:
    """Text without regard to upper and lower case: `=`, and `:` for what it holds."""
    return Field(
        {
            # PostgreSQL's idea of lower case on both sides: Python knows more letters than some of its locales.
            "=": lambda value: func.lower(column) == func.lower(value),
            ":": lambda value: column.icontains(value, autoescape=True),
        },
        str,
    )


def choice(column: Column, values: Iterable[str]) -> Field:
    """One of some words: `=`, `!=`."""
    known = [str(value) for value in values]

    def read(value: str) -> str:
        if value not in known:
            raise ValueError("must be one of " + ", ".join(known))
        return value

    return Field({"=": lambda value: column == value, "!=": lambda value: column != value}, read)


def boolean(condition: Column) -> Field:
    """Whether a condition holds: `= true`, `= false`."""

    def read(value: str) -> bool:
        if value not in ("true", "false"):
            raise ValueError("must be true or false")
        return value == "true"

    return Field({"=": condition.is_}, read)


def uuid(column: Column) -> Field:
    """A UUID: `=`."""

    def read(value: str) -> UUID:
        try:
            return UUID(value)
        except ValueError as error:
            raise ValueError("must be a UUID") from error

    return Field({"=": lambda value: column == value}, read)


def moment(column: Column) -> Field:
    """A time: `<`, `<=`, `>`, `>=` with a timestamp as RFC 3339 writes it."""

    def read(value: str) -> datetime:
        try:
            if _RFC_3339.fullmatch(value):
                return datetime.fromisoformat(value.upper())
        except ValueError:
            pass  # Such as February 30.
        raise ValueError("must be a time with its zone, such as 2026-01-31T12:00:00Z")

    return Field(
        {
            "<": lambda value: column < value,
            "<=": lambda value: column <= value,
            ">": lambda value: column > value,
            ">=": lambda value: column >= value,
        },
        read,
    )


class Filter:
    """What the filter of one list may say."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        self._fields = fields

    def read(self, written: str) -> list[ColumnElement[bool]]:
        """The conditions that a row has to meet, all of them; none for an empty filter. Raises FilterInvalid."""
        if len(written) > MAX_LENGTH:
            raise _invalid(f"must have at most {MAX_LENGTH} characters")
        written = written.rstrip()
        conditions: list[ColumnElement[bool]] = []
        at = len(written) - len(written.lstrip())
        while at < len(written):
            if conditions:
                joint = _AND.match(written, at)
                if joint is None:
                    raise _invalid("expected AND, which alone joins comparisons", at)
                at = joint.end()
            if len(conditions) == MAX_COMPARISONS:
                raise _invalid(f"at most {MAX_COMPARISONS} comparisons can be joined", at)
            comparison = _COMPARISON.match(written, at)
            if comparison is None or comparison["bare"] in _KEYWORDS:
                raise _invalid('expected a comparison, such as field = "value"', at)
            conditions.append(self._condition(comparison))
            at = comparison.end()
        return conditions

    def _condition(self, comparison: re.Match[str]) -> ColumnElement[bool]:
        name, operator, at = comparison["field"], comparison["operator"], comparison.start("field")
        field = self._fields.get(name)
        if field is None:
            raise _invalid("the fields are " + ", ".join(self._fields), at)
        if operator not in field.operators:
            raise _invalid(f"{name} can be compared with " + " ".join(field.operators), at)
        value = comparison["bare"]
        if value is None:
            quoted = comparison["single"] if comparison["double"] is None else comparison["double"]
            value = _ESCAPED.sub(r"\1", quoted)
        try:
            return field.operators[operator](field.read(value))
        except ValueError as error:
            raise _invalid(f"{name} {error}", at) from error


def _invalid(problem: str, at: int | None = None) -> FilterInvalid:
    """The refusal; positions count characters from 1, as people do."""
    where = "" if at is None else f"at character {at + 1}: "
    return FilterInvalid(fields=[FieldViolation("filter", where + problem)])
