"""What a store does, and how it fails."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview

PAGE_OBJECTS = 1000
_PART_KEY = re.compile("([0-9a-f]{2})/[0-9a-f]{30}\\1")


class StoreFailed(Exception):
    """The store could not do it now: it is full, away, or not ours to write."""


class PartLost(Exception):
    """The store has no such part, or has other bytes under its name. The message says which part and what is wrong."""


class PartMissing(PartLost):
    """The store has no such part."""


def other_size(key: str, size: int, expected: int) -> PartLost:
    """What to raise for a part that has another size than it should."""
    return PartLost(f"part {key} has {size} bytes in place of {expected}")


class StoredObject(NamedTuple):
    """What a store says of one name."""

    key: str
    size_bytes: int
    last_modified: datetime

    @property
    def is_part(self) -> bool:
        """Whether it is named as parts are; anything else was put there by somebody else, and is not ours to touch."""
        return _PART_KEY.fullmatch(self.key) is not None


class Store(Protocol):
    """Bytes under names. Blocking; every method raises StoreFailed when it could not be done."""

    def put(self, key: str, data: Sequence[Buffer]) -> None:
        """Keep bytes, one piece after the other, under a new name; they are durable on return.

        If it raises, some of them, or all, may be there.
        """

    def get(self, key: str) -> bytes:
        """The bytes under a name. Raises PartLost if there is none."""

    def read(self, key: str, sizes: Sequence[int]) -> Iterator[bytes]:
        """The bytes under a name in runs of these sizes, which are all of them.

        Raises PartLost if there is none, or it has another size.
        """

    def delete(self, keys: Sequence[str]) -> None:
        """Remove names; one that is not there is fine."""

    def list(self, after: str = "") -> Iterator[Sequence[StoredObject]]:
        """All that is kept, in ascending order of names from behind `after` on, by pages of at most 1000.

        What is put or removed meanwhile may be in it or not; everything else is in it once.
        """
