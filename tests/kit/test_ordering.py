"""What a page token of an ordered list may hold: keys that a row of that order can have, or it is refused."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import true

from services.agent.models.agents import AgentTable
from services.kit.errors import PageTokenInvalid, ValidationFailed
from services.kit.ids import uuid7
from services.kit.ordering import Order, Ordering, by_moment, by_number, by_text
from services.kit.pages import next_page_token, read_page

ORDERING = Ordering(
    {
        "name": by_text(AgentTable.name),
        "time": by_moment(AgentTable.update_time),
        "revision": by_number(AgentTable.revision),
    }
)


def order(written: str) -> Order:
    found = ORDERING.read(written)
    assert found is not None
    return found


@given(
    st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # the bounds have no zone, by hypothesis's rule
    st.integers(-(2**63), 2**63 - 1),
)
def test_the_keys_of_a_row_come_out_of_the_token_as_they_went_in(name: str, time: datetime, revision: int) -> None:
    values = {"name": name, "update_time": time.astimezone(timezone(timedelta(hours=2))), "revision": revision}
    three = order("name, time desc, revision")
    keys, last = three.keys_of(values), uuid7()
    page = read_page("list", 10, next_page_token("list", last, keys), 0)
    assert (page.after, page.keys) == (last, keys)
    assert [key.read(text) for (key, _), text in zip(three.terms, page.keys, strict=True)] == [name, time, revision]
    three.behind(page.keys, true())


def test_keys_that_no_row_of_the_order_has_are_refused(subtests: pytest.Subtests) -> None:
    for written, keys in [
        ("name", ()),
        ("name", ("a", "b")),
        ("name, time", ("a",)),
        ("time", ("yesterday",)),
        ("time", ("",)),
        ("time", ("2026-01-01T00:00:00",)),
        ("time", ("0001-01-01T00:00:00+01:00",)),
        ("time", ("9999-12-31T23:59:59-01:00",)),
        ("revision", ("1.5",)),
        ("revision", (str(2**63),)),
        ("revision", ("9" * 5000,)),
    ]:
        with subtests.test(f"{written}: {keys}"[:60]), pytest.raises(PageTokenInvalid):
            order(written).behind(keys, true())


def test_an_empty_order_is_none() -> None:
    assert ORDERING.read("") is None
    assert ORDERING.read("  ") is None


@given(st.text())
def test_any_other_text_is_refused_and_is_no_fault(written: str) -> None:
    if written.strip():
        with pytest.raises(ValidationFailed) as caught:
            ORDERING.read(f"{written} asc")
        assert [violation.field for violation in caught.value.fields] == ["order_by"]
