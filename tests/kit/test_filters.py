"""A filter of a list is a condition of its statement, or is refused with the place where it is wrong."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Boolean, Column, ColumnElement, MetaData, Table, Text, Uuid, select
from sqlalchemy.dialects.postgresql import TIMESTAMP

from services.kit.database import Database
from services.kit.errors import FilterInvalid
from services.kit.filters import Filter, boolean, caseless, choice, moment, text, uuid

ANN, BOB = UUID(int=1), UUID(int=2)
PEOPLE = Table(
    "people",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("name", Text),
    Column("address", Text),
    Column("state", Text),
    Column("is_admin", Boolean),
    Column("verify_time", TIMESTAMP(timezone=True)),
    Column("create_time", TIMESTAMP(timezone=True)),
    prefixes=["TEMPORARY"],
)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ROWS = (
    {"id": ANN, "name": 'Ann 100% "Ä"_\\\'', "address": "2001:db8::1", "state": "ACTIVE", "is_admin": True}
    | {"verify_time": NOON, "create_time": NOON},
    {"id": BOB, "name": "Bob 1000", "address": "192.0.2.7", "state": "DISABLED", "is_admin": False}
    | {"verify_time": None, "create_time": NOON.replace(day=1)},
)
LIST = Filter(
    {
        "id": uuid(PEOPLE.c.id),
        "name": caseless(PEOPLE.c.name),
        "address": text(PEOPLE.c.address),
        "state": choice(PEOPLE.c.state, ["ACTIVE", "DISABLED"]),
        "is_admin": boolean(PEOPLE.c.is_admin),
        "verified": boolean(PEOPLE.c.verify_time.is_not(None)),
        "create_time": moment(PEOPLE.c.create_time),
    }
)


async def found(database: Database, written: str) -> set[UUID]:
    """Whom the filter lets through, as PostgreSQL finds them."""
    async with database.transaction() as tx:
        await tx.run_sync(PEOPLE.create)
        await tx.execute(PEOPLE.insert(), list(ROWS))
        rows = await tx.execute(select(PEOPLE.c.id).where(*LIST.read(written)))
        ids = set(rows.scalars())
        await tx.run_sync(PEOPLE.drop)
    return ids


def problem(written: str) -> str:
    """What is told about a filter that is refused."""
    with pytest.raises(FilterInvalid) as caught:
        LIST.read(written)
    (violation,) = caught.value.fields
    assert violation.field == "filter"
    return violation.description


async def test_comparisons_find_what_they_say(database: Database) -> None:
    everybody = {ANN, BOB}
    for written, expected in {
        "": everybody,
        " \t": everybody,
        f"id = {ANN}": {ANN},
        f'id="{BOB}"': {BOB},
        "address = 2001:db8::1": {ANN},
        "address = '192.0.2.7'": {BOB},
        "address = 192.0.2": set(),
        "state = ACTIVE": {ANN},
        'state != "ACTIVE"': {BOB},
        "is_admin = true": {ANN},
        "is_admin = false": {BOB},
        "verified = true": {ANN},
        "verified=false": {BOB},
        "create_time >= 2026-01-31T12:00:00Z": {ANN},
        "create_time > 2026-01-31T12:00:00Z": set(),
        'create_time < "2026-01-31T13:00:00.000000001+02:00"': {BOB},
        "create_time<=2026-01-31t12:00:00z": everybody,
        "create_time > 0001-01-01T00:00:00+23:59 AND create_time < 9999-12-31T23:59:59-23:59": everybody,
        "name : bob": {BOB},
        "name = 'bOB 1000'": {BOB},
        " is_admin = true\nAND  state = ACTIVE ": {ANN},
        "is_admin = true AND state = DISABLED": set(),
    }.items():
        assert await found(database, written) == expected, written


async def test_characters_that_mean_something_to_like_or_to_a_quote_stand_for_themselves(database: Database) -> None:
    for written, expected in {
        "name:'100%'": {ANN},
        "name:'1_0'": set(),
        "name:'_'": {ANN},
        r"name:'\\'": {ANN},
        r"name:'\''": {ANN},
        r'name:"\""': {ANN},
        """name:'"'""": {ANN},
        "name:'/'": set(),
        "name:'Ä'": {ANN},
        r"""name = 'Ann 100% "Ä"_\\\''""": {ANN},
        "name:''": {ANN, BOB},
    }.items():
        assert await found(database, written) == expected, written


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("name", "at character 1: expected a comparison"),
        ("  (name = ann)", "at character 3: expected a comparison"),
        ("NOT name = ann", "at character 1: expected a comparison"),
        ("-name = ann", "at character 1: expected a comparison"),
        ('name = "ann', "at character 1: expected a comparison"),
        ("name = AND", "at character 1: expected a comparison"),
        ("name = a*", "at character 9: expected AND"),
        (r'name = "\n"', "at character 1: expected a comparison"),
        ("name = '\0'", "at character 1: expected a comparison"),
        ("name = ann OR name = bob", "at character 11: expected AND"),
        ("name = ann name = bob", "at character 11: expected AND"),
        ("name = 'ann'AND name = bob", "at character 13: expected AND"),
        ("name = ann AND ", "at character 15: expected a comparison"),
        ("name = ann and name = bob", "at character 11: expected AND"),
        ("name = ann AND password = x", "at character 16: the fields are id, name, address"),
        ("name > ann", "at character 1: name can be compared with = :"),
        ("state : ACT", "at character 1: state can be compared with = !="),
        ("state = active", "at character 1: state must be one of ACTIVE, DISABLED"),
        ("is_admin = 1", "at character 1: is_admin must be true or false"),
        ("id = 5", "at character 1: id must be a UUID"),
        ("create_time = 2026-01-31T12:00:00Z", "at character 1: create_time can be compared with < <= > >="),
        ("create_time > 2026-01-31", "at character 1: create_time must be a time with its zone"),
        ("create_time > 2026-01-31T12:00:00", "at character 1: create_time must be a time with its zone"),
        ("create_time > 2026-02-30T12:00:00Z", "at character 1: create_time must be a time with its zone"),
        ("create_time > '2026-W05-6T12:00:00Z'", "at character 1: create_time must be a time with its zone"),
        (" AND ".join(["name = a"] * 11), "at character 131: at most 10 comparisons"),
        ("name = " + "a" * 494, "must have at most 500 characters"),
    ],
)
def test_everything_else_is_refused_with_what_is_wrong_and_where(written: str, expected: str) -> None:
    assert problem(written).startswith(expected)


def conditions_or_refusal(written: str) -> list[ColumnElement[bool]]:
    """The conditions; any other failure than FilterInvalid fails the test."""
    try:
        return LIST.read(written)
    except FilterInvalid:
        return []


@given(st.text(max_size=600))
def test_any_text_is_conditions_or_a_refusal(written: str) -> None:
    assert all(isinstance(condition, ColumnElement) for condition in conditions_or_refusal(written))


_PIECES: list[Any] = [
    *["name", "state", "is_admin", "create_time", "id", "nobody", "AND", "OR", "NOT", "(", ")", " ", "  ", "-", "*"],
    *["=", "!=", "<", "<=", ">", ">=", ":", '"', "'", "\\", "ACTIVE", "true", "2026-01-31T12:00:00Z", str(ANN)],
    *['"ann"', "2026-13-31T12:00:00Z", "2026-01-31T12:00:60Z", "9999-12-31T23:59:59-23:59", "٣", "\u2028", "\0"],
]


@given(st.lists(st.sampled_from(_PIECES), max_size=20).map("".join))
def test_any_row_of_pieces_of_filters_is_conditions_or_a_refusal(written: str) -> None:
    conditions = conditions_or_refusal(written)
    # What a value holds is sent as a value and never becomes a part of the statement.
    assert all('"' not in str(condition) for condition in conditions)


@given(st.text(max_size=100).filter(lambda value: "\0" not in value))
def test_any_value_can_be_said_in_quotes(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    (condition,) = LIST.read(f'address = "{quoted}"')
    assert list(condition.compile().params.values()) == [value]
