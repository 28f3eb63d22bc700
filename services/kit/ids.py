"""Ids and time, as every service makes them."""

import os
import threading
import time
from datetime import UTC, datetime
from uuid import UUID

_lock = threading.Lock()
_last = 0


def utc_now() -> datetime:
    """The time now, with its zone. Passed to whoever needs a clock, so that a test can pass another."""
    return datetime.now(UTC)


def uuid7() -> UUID:
    """A new UUIDv7 (RFC 9562 §5.7): sorts by time of creation, strictly within one process."""
    return UUID(int=_uuid7())


def uuid7_hex() -> str:
    """The 32 digits of a new UUIDv7, in half the time."""
    return f"{_uuid7():032x}"


def _uuid7() -> int:
    """The number of a new UUIDv7.

    The twelve bits after the milliseconds are a fraction of a millisecond (method 3 of §6.2), counted on when two ids
    would be equal or the clock steps back.
    """
    global _last  # noqa: PLW0603  # the clock of the ids is one for the process
    ticks = time.time_ns() * 4096 // 1_000_000
    with _lock:
        _last = ticks = max(ticks, _last + 1)
    tail = int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF
    return (ticks >> 12) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | tail
