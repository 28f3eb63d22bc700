"""base64url: the same bytes have one text, so that nothing signed or remembered has a second spelling."""

import base64

import pytest

from services.kit import base64url

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.mark.parametrize("raw", [b"", b"\0", b"\xff", b"\xfb\xff", b"\xfb\xef\xbe", bytes(range(256))])
def test_bytes_come_back_from_their_text(raw: bytes) -> None:
    text = base64url.encode(raw)
    assert set(text) <= set(ALPHABET)
    assert base64url.decode(text) == raw


@pytest.mark.parametrize("text", ["_w==", "_w=", "/w", "+w", "_w\n", " _w", "_ w", "_", "_w_w_", "_w.", "é_", "\0"])
def test_a_text_that_is_not_made_by_encoding_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        base64url.decode(text)


def test_of_all_last_characters_that_stand_for_the_same_bytes_one_is_taken() -> None:
    """A text of two characters has 4 bits too many, one of three has 2: a lenient decoder drops them."""
    for beginning, spellings in (("_", 16), ("__", 4)):
        taken = []
        for last in ALPHABET:
            text = beginning + last
            try:
                taken.append(base64url.decode(text))
            except ValueError:
                continue
        assert len(taken) == len(set(taken)) == len(ALPHABET) // spellings
        lenient = [base64.urlsafe_b64decode(beginning + last + "==") for last in ALPHABET]
        assert set(taken) == set(lenient)
