"""Page tokens lead on in the list that they were made for, and nowhere else."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.errors import PageTokenInvalid
from services.kit.ids import uuid7
from services.kit.pages import PageRequest, next_page_token, read_page


def test_a_token_leads_on_after_the_last_item() -> None:
    last = uuid7()
    token = next_page_token("agents:ann", last)
    assert read_page("agents:ann", 10, token, 3) == PageRequest(size=10, skip=3, after=last)


def test_a_first_page_of_no_stated_size_is_of_a_hundred() -> None:
    assert read_page("agents:ann", 0, "", 0) == PageRequest(size=100, skip=0, after=None)


def test_the_last_page_has_no_token() -> None:
    assert next_page_token("agents:ann", None) == ""


def test_a_token_of_another_list_is_refused() -> None:
    token = next_page_token("agents:ann", uuid7())
    for other in ("agents:bob", "files:ann", ""):
        with pytest.raises(PageTokenInvalid):
            read_page(other, 10, token, 0)


def test_a_token_that_was_changed_is_refused() -> None:
    token = next_page_token("agents:ann", uuid7())
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for changed in (token[:-2], token + "A", "A" + token[1:] if token[0] != "A" else "B" + token[1:]):
        with pytest.raises(PageTokenInvalid):
            read_page("agents:ann", 10, changed, 0)
    for index in range(len(raw)):
        altered = bytearray(raw)
        altered[index] ^= 1
        with pytest.raises(PageTokenInvalid):
            read_page("agents:ann", 10, base64.urlsafe_b64encode(bytes(altered)).rstrip(b"=").decode(), 0)


@given(st.text(min_size=1, max_size=600))
def test_any_other_text_is_refused_and_is_no_fault(text: str) -> None:
    with pytest.raises(PageTokenInvalid):
        read_page("agents:ann", 10, text, 0)
