"""File names of strangers become plain names in a folder of ours."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.files.names import PART_SUFFIX, plain_name, shown


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("report.pdf", "report.pdf"),
        ("Grüezi 世界.txt", "Grüezi 世界.txt"),
        ("../../x", "x"),
        ("..\\..\\x.exe", "x.exe"),
        ("/etc/passwd", "passwd"),
        ("C:\\Windows\\system.ini", "system.ini"),
        ("a/b/", "b"),
        (".bashrc", "bashrc"),
        ("...x", "x"),
        (" . .x. . ", "x"),
        ("-rf", "_rf"),
        ("a\x1b[31m", "a_[31m"),
        ("a\nb\x00c", "a_b_c"),
        ("invoice\u202etxt.exe", "invoice_txt.exe"),
        ("a.b.part", "a.b.part"),
        ("", "the-id"),
        (".", "the-id"),
        ("..", "the-id"),
        ("/", "the-id"),
        ("../..", "the-id"),
        ("\x1b\x07", "the-id"),
        ("x" * 300 + ".tar.gz", "x" * 247 + ".gz"),
        ("世" * 200, "世" * 83),
    ],
)
def test_what_is_left_of_a_name(filename: str, name: str) -> None:
    assert plain_name(filename, "the-id") == name


@given(st.text(max_size=400))
def test_whatever_it_was_it_is_a_visible_name_in_one_folder(filename: str) -> None:
    name = plain_name(filename, "the-id")
    assert name == os.path.basename(name)  # noqa: PTH119  # of the text, not of a Path that was made of it
    assert name not in {"", ".", ".."}
    assert not name.startswith((".", "-", " "))
    assert len(f"{name}{PART_SUFFIX}".encode()) <= 255
    assert not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in name)


def test_a_path_is_shown_on_one_line_whatever_its_bytes_are() -> None:
    assert shown(os.fsdecode(b"a\xffb\n\x1b[2J")) == "a\ufffdb \ufffd[2J"
