"""The `order_by` of lists (AIP-132): fields separated by commas, each perhaps followed by ` desc`.

A list says once by which fields it can be ordered, and turns what a request says into an order for the kit's lists:

    USERS = Ordering({"full_name": by_text(UserTable.full_name), "create_time": by_moment(UserTable.create_time)})
    order = USERS.read("full_name, create_time desc")

What is equal by all of these comes newest first. The columns must be NOT NULL. A page token holds the values of the
last item, so that a list goes on where it was although that item has changed, moved or gone since.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_
from sqlalchemy.orm import InstrumentedAttribute

from services.kit.errors import FieldViolation, PageTokenInvalid, ValidationFailed

_TERM = re.compile(r"([a-z][a-z0-9_]*)( +desc)?")

Column = ColumnElement[Any]


@dataclass(frozen=True, slots=True)
class SortKey:
    """How a list is ordered by one column, and how a value of it is written as text and read from it.

    `read` raises ValueError or OverflowError for what `write` cannot have written.
    """

    column: InstrumentedAttribute[Any]
    sortable: Callable[[Column], Column]
    write: Callable[[Any], str]
    read: Callable[[str], Any]


def by_text(column: InstrumentedAttribute[str]) -> SortKey:
    """By code point: the same on every database, whatever its locale."""
    return SortKey(column, lambda source: source.collate("C"), str, str)


def by_moment(column: InstrumentedAttribute[datetime]) -> SortKey:
    """By time, to the microsecond."""
    return SortKey(column, lambda source: source, lambda value: value.astimezone(UTC).isoformat(), _read_moment)


def by_number(column: InstrumentedAttribute[int]) -> SortKey:
    """By a whole number of at most 64 bits."""
    return SortKey(column, lambda source: source, str, _read_number)


@dataclass(frozen=True, slots=True)
class Order:
    """By which columns a list is ordered before its ids, and which of them fall."""

    terms: Sequence[tuple[SortKey, bool]]

    def clauses(self, columns: Mapping[str, Column]) -> list[ColumnElement[Any]]:
        """What an ORDER BY has for this order, of columns by their names."""
        sources = [(key.sortable(columns[key.column.key]), falls) for key, falls in self.terms]
        return [source.desc() if falls else source.asc() for source, falls in sources]

    def behind(self, keys: Sequence[str], behind_id: ColumnElement[bool]) -> ColumnElement[bool]:
        """The condition that a row comes later than one with these keys; of equals, those later that meet the other.

        Raises PageTokenInvalid for keys that no row of this order has.
        """
        if len(keys) != len(self.terms):
            raise PageTokenInvalid
        condition = behind_id
        for (key, falls), text in zip(reversed(self.terms), reversed(keys), strict=True):
            try:
                value = key.read(text)
            except (ValueError, OverflowError) as error:
                raise PageTokenInvalid from error
            source = key.sortable(key.column.expression)
            condition = or_(source < value if falls else source > value, and_(source == value, condition))
        return condition

    def keys_of(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys of a row, for `behind`, from its values by the names of its columns."""
        return tuple(key.write(values[key.column.key]) for key, _ in self.terms)


class Ordering:
    """By which fields one list can be ordered."""

    def __init__(self, fields: Mapping[str, SortKey]) -> None:
        self._fields = fields

    def read(self, written: str) -> Order | None:
        """The order that was asked for, None for an empty one. Raises ValidationFailed, about the field `order_by`."""
        if not written.strip():
            return None
        terms: dict[str, tuple[SortKey, bool]] = {}
        for part in written.split(","):
            term = _TERM.fullmatch(part.strip(" "))
            if term is None or term[1] not in self._fields:
                known = ", ".join(self._fields)
                raise _invalid(f"must be fields separated by commas, each perhaps with ` desc`; the fields are {known}")
            if term[1] in terms:
                raise _invalid(f"names {term[1]} twice")
            terms[term[1]] = (self._fields[term[1]], term[2] is not None)
        return Order(list(terms.values()))


def _invalid(problem: str) -> ValidationFailed:
    return ValidationFailed(fields=[FieldViolation("order_by", problem)])


def _read_moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("must have its zone")
    return moment.astimezone(UTC)


def _read_number(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise OverflowError("must have at most 64 bits")
    return number
