"""Ids sort by the time at which they were made, and are UUIDs of version 7."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from services.kit.ids import utc_now, uuid7


def test_ids_are_of_version_7_and_of_the_rfcs_variant() -> None:
    for _ in range(1000):
        made = uuid7()
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"


def test_ids_begin_with_the_milliseconds_of_their_making() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7().int >> 80
    assert before <= made <= time.time_ns() // 1_000_000 + 1


def test_ids_of_one_process_rise_strictly_in_each_thread_and_never_repeat() -> None:
    def many(_: int) -> list[str]:
        return [str(uuid7()) for _ in range(5_000)]

    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(many, range(4)))
    for run in runs:
        assert run == sorted(run)
    assert len({made for run in runs for made in run}) == 20_000


def test_ids_rise_even_while_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    times = iter([now, now - 10**9, now - 2 * 10**9, now])
    monkeypatch.setattr("services.kit.ids.time.time_ns", lambda: next(times))
    made = [uuid7() for _ in range(4)]
    assert made == sorted(made)
    assert len(set(made)) == 4


def test_the_clock_knows_its_zone() -> None:
    assert utc_now().utcoffset() == timedelta(0)
