"""Refused calls are counted, so that who is refused again and again hides nobody else who is refused."""

from uuid import UUID, uuid4

import pytest

from services.kit.ids import utc_now, uuid7
from services.kit.origin import NOWHERE
from services.kit.refusal_tally import MOST_PER_CALLER, Refusal, RefusalTally

ANN, BOB, SESSION = uuid4(), uuid4(), uuid4()
ALL = 1_000


class Clock:
    """Goes as a test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally(clock: Clock) -> RefusalTally:
    return RefusalTally(clock)


def refused(who: UUID = ANN, method: str = "a", session: UUID = SESSION) -> Refusal:
    return Refusal(uuid7(), utc_now(), method, who, session, NOWHERE)


def told(tally: RefusalTally) -> list[Refusal]:
    """What is to be told now, and then was."""
    found = list(tally.next(ALL))
    tally.told(len(found))
    return found


def test_the_first_is_told_at_once_and_those_that_follow_as_one_when_the_minute_is_over(
    tally: RefusalTally, clock: Clock
) -> None:
    calls = [refused() for _ in range(1_000)]
    for call in calls:
        tally.take(call)
    assert told(tally) == [calls[0]]
    clock.now = 59.9
    assert told(tally) == []
    clock.now = 60
    (rest,) = told(tally)
    assert (rest.count, rest.create_time) == (999, calls[-1].create_time)
    assert rest.id not in {call.id for call in calls}
    assert tally.take_dropped() == 0


def test_a_flood_that_goes_on_is_told_once_a_minute_and_nothing_is_left_when_it_ends(
    tally: RefusalTally, clock: Clock
) -> None:
    counts = []
    for second in range(300):
        clock.now = second
        for _ in range(100):
            tally.take(refused())
        counts += [call.count for call in told(tally)]
    clock.now = 361
    counts += [call.count for call in told(tally)]
    assert len(counts) <= 7
    assert sum(counts) == 30_000
    clock.now = 422
    assert told(tally) == []
    assert tally.is_empty


def test_callers_sessions_and_methods_are_told_apart(tally: RefusalTally) -> None:
    calls = [refused(), refused(BOB), refused(method="b"), refused(session=uuid4())]
    for call in calls * 2:
        tally.take(call)
    assert told(tally) == calls
    tally.end_all()
    assert [call.count for call in told(tally)] == [1] * 4
    assert tally.is_empty


def test_who_tries_every_method_is_bounded_and_pushes_nobody_out(tally: RefusalTally, clock: Clock) -> None:
    for number in range(5_000):
        tally.take(refused(method=str(number), session=uuid4()))
    last = refused(BOB)
    tally.take(last)
    found = told(tally)
    assert len(found) == MOST_PER_CALLER + 1
    assert found[-1] == last
    assert tally.take_dropped() == 5_000 - MOST_PER_CALLER
    clock.now = 60
    assert told(tally) == []
    again = refused()
    tally.take(again)
    assert told(tally) == [again]


def test_what_waits_and_what_is_counted_is_bounded_in_all(tally: RefusalTally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.kit.refusal_tally.MOST_COUNTED", 15)
    monkeypatch.setattr("services.kit.refusal_tally.MOST_WAITING", 10)
    for _ in range(12):
        tally.take(refused(uuid4()))
    assert (len(told(tally)), tally.take_dropped()) == (10, 2)
    for _ in range(12):
        tally.take(refused(uuid4()))
    assert (len(told(tally)), tally.take_dropped()) == (5, 7)


def test_what_was_counted_waits_while_there_is_no_room_to_tell_it(
    tally: RefusalTally, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.kit.refusal_tally.MOST_WAITING", 2)
    tally.take(refused())
    told(tally)
    tally.take(refused())
    for _ in range(2):
        tally.take(refused(uuid4()))
    clock.now = 60
    assert [call.count for call in tally.next(ALL)] == [1, 1]
    tally.take(refused())
    tally.told(2)
    assert [call.count for call in told(tally)] == [2]


def test_what_was_not_told_is_told_again_with_the_same_id_and_number(tally: RefusalTally, clock: Clock) -> None:
    tally.take(refused())
    tally.take(refused())
    first = list(tally.next(ALL))
    clock.now = 60
    assert [call.count for call in tally.next(ALL)] == [1, 1]
    before = list(tally.next(ALL))
    assert before[:1] == first
    tally.take(refused())
    assert list(tally.next(ALL)) == before
