"""Names of files: those that strangers gave, and those that are on this machine."""

import os
import re
import unicodedata
from pathlib import Path

from services.cli.client.writing import one_line

PART_SUFFIX = ".part"
MOST_BYTES = 255 - len(PART_SUFFIX)
SHOWN_CHARACTERS = 200
# Controls, and what changes how the text around it is read: a name that ends in `exe` could be shown as one in `txt`.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain_name(filename: str, otherwise: str) -> str:
    """A stranger's file name as one in a folder of ours: neither a path, nor hidden, nor anything a terminal obeys.

    It fits into 255 bytes with PART_SUFFIX behind it. If nothing is left of it, it is the other name.
    """
    last = re.split(r"[/\\]", filename.rstrip("/\\"))[-1]
    seen = "".join("_" if unicodedata.category(character) in _UNSEEN else character for character in last)
    name = seen.lstrip(". \t").rstrip(". \t")
    if name.startswith("-"):  # no option of any command
        name = f"_{name[1:]}"
    return _short(name) if name.strip("_ .") else otherwise


def shown(path: str | Path) -> str:
    """A path for people to read, on one line."""
    return one_line(as_text(path), SHOWN_CHARACTERS)


def as_text(path: str | Path) -> str:
    """A path as a text that can be written as UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def _short(name: str) -> str:
    if len(name.encode()) <= MOST_BYTES:
        return name
    stem, dot, suffix = name.rpartition(".")
    suffix = f"{dot}{suffix}" if stem and len(suffix.encode()) <= 16 else ""
    kept = (stem if suffix else name).encode()[: MOST_BYTES - len(suffix.encode())].decode(errors="ignore")
    return f"{kept}{suffix}"
