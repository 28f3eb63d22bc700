"""Refused calls, counted: whoever is refused again and again costs an event a minute, and pushes nobody else out."""

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import TypeAlias
from uuid import UUID

from services.kit.ids import uuid7
from services.kit.origin import Origin

PERIOD_SECONDS = 60.0
MOST_PER_CALLER = 20
MOST_COUNTED = 10_000
MOST_WAITING = 1_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that its caller may not make, or several that are alike."""

    id: UUID
    create_time: datetime
    """When it was made; of several, the last."""
    method: str
    """Its full name, such as `parley.agent.v1.AgentService/GetAgent`."""
    subject_id: UUID
    session_id: UUID
    origin: Origin
    count: int = 1


@dataclass(slots=True)
class _Period:
    """What follows a refusal that was told, until it is told itself."""

    ends_at: float
    last: Refusal
    count: int = 0


_Alike: TypeAlias = tuple[UUID, UUID, str]


class RefusalTally:
    """Refusals on their way to the audit log.

    The first of a caller in a session to a method is to be told at once. Those that follow are counted, and told as one
    when a minute is over; while they go on, every minute. Of one caller 20 sessions and methods are counted at a time,
    of all 10,000, and 1000 wait to be told: of others only the number is known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.dropped = 0
        """How many calls are in none of the refusals."""
        self._clock = clock
        self._waiting: deque[Refusal] = deque()
        # In the order in which they end, as all take equally long.
        self._periods: OrderedDict[_Alike, _Period] = OrderedDict()
        self._of_caller: Counter[UUID] = Counter()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is being counted."""
        return not self._waiting and not self._periods

    def __len__(self) -> int:
        """How many wait to be told."""
        return len(self._waiting)

    def take(self, refusal: Refusal) -> None:
        """Count one."""
        alike = (refusal.subject_id, refusal.session_id, refusal.method)
        if period := self._periods.get(alike):
            period.last = refusal
            period.count += refusal.count
        elif (
            len(self._waiting) >= MOST_WAITING
            or len(self._periods) >= MOST_COUNTED
            or self._of_caller[refusal.subject_id] >= MOST_PER_CALLER
        ):
            self.dropped += refusal.count
        else:
            self._waiting.append(refusal)
            self._begin(alike, refusal)

    def next(self, limit: int) -> Sequence[Refusal]:
        """The first that are to be told by now; they wait until `told` says that they were."""
        now = self._clock()
        while self._periods and next(iter(self._periods.values())).ends_at <= now and self._end_first():
            pass
        return list(islice(self._waiting, limit))

    def end_all(self) -> None:
        """Let all that was counted be told now."""
        while self._periods and self._end_first(go_on=False):
            pass

    def told(self, number: int) -> None:
        """The first ones were told."""
        for _ in range(number):
            self._waiting.popleft()

    def take_dropped(self) -> int:
        """How many calls are in none of the refusals, since this was last asked."""
        dropped, self.dropped = self.dropped, 0
        return dropped

    def _begin(self, alike: _Alike, last: Refusal) -> None:
        self._periods[alike] = _Period(self._clock() + PERIOD_SECONDS, last)
        self._of_caller[last.subject_id] += 1

    def _end_first(self, *, go_on: bool = True) -> bool:
        """End the first period; False if what it counted cannot be told yet, as too much waits."""
        alike, period = next(iter(self._periods.items()))
        if period.count and len(self._waiting) >= MOST_WAITING:
            return False
        del self._periods[alike]
        self._of_caller[period.last.subject_id] -= 1
        if not self._of_caller[period.last.subject_id]:
            del self._of_caller[period.last.subject_id]
        if period.count:
            # An id of its own, as the one of the last call was not told: that time is the event's.
            self._waiting.append(replace(period.last, id=uuid7(), count=period.count))
            if go_on:
                self._begin(alike, period.last)
        return True
