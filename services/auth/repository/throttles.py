"""Counters of failures in succession."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from sqlalchemy import (
    ColumnElement,
    Interval,
    LargeBinary,
    any_,
    bindparam,
    case,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.models.users import Throttle, ThrottleTable
from services.kit.prepared import Prepared

_COLUMNS = ThrottleTable.__table__.columns
_THROTTLE = tuple(_COLUMNS[name] for name in Throttle._fields)
_MOST_DOUBLINGS = 20
_FOR_EVER = timedelta(days=36_500)
_GET = Prepared(select(*_THROTTLE).where(ThrottleTable.key == bindparam("which")))
_CLEAR = Prepared(delete(ThrottleTable).where(ThrottleTable.key == any_(bindparam("keys", type_=ARRAY(LargeBinary)))))


@dataclass(frozen=True, slots=True)
class Limits:
    """How many attempts are free, and how long the next one has to wait after more."""

    free: int
    first_delay: timedelta
    """After the last free one; twice as long after each further one."""
    longest_delay: timedelta
    most: int | None = None
    """After so many there is none until the counter is cleared."""
    memory: timedelta | None = None
    """How long after the last one all are forgotten; None for not before the counter is cleared."""
    span: timedelta | None = None
    """Each span of time has a counter of its own, as each hour by the clock: one that is used steadily is not for ever
    remembered."""


class Throttles:
    """Counters by key, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def get(self, key: bytes) -> Throttle | None:
        """What was counted."""
        row = await _GET.first(self._tx, {"which": key})
        return None if row is None else Throttle(*row)

    async def count(self, key: bytes, now: datetime, limits: Limits, *, whatever: bool = False) -> bool:
        """Count an attempt if one is allowed now, or `whatever` there was before; whether it was counted.

        It is one statement, so that attempts at once, in whatever processes, are counted one after the other.
        """
        return await _counting(limits, whatever=whatever).first(self._tx, {"which": key, "now": now}) is not None

    async def take_back(self, key: bytes, counted: datetime, last_failure_time: datetime) -> None:
        """Count one less. If none was counted since, all is as before: an attempt is allowed at once."""
        is_last = ThrottleTable.last_failure_time == counted
        before = {
            "failures": func.greatest(_COLUMNS.failures - 1, 0),
            "last_failure_time": case((is_last, last_failure_time), else_=ThrottleTable.last_failure_time),
            "retry_time": case((is_last, counted), else_=ThrottleTable.retry_time),
        }
        await self._tx.execute(update(ThrottleTable).where(ThrottleTable.key == key).values(before))

    async def clear(self, keys: Sequence[bytes]) -> None:
        """Forget what was counted under these keys."""
        await _CLEAR.run(self._tx, {"keys": list(keys)})

    async def delete_older(self, before: datetime) -> int:
        """Remove counters that changed last before a time, but for those that allow no attempt any more; how many."""
        is_old = (ThrottleTable.last_failure_time < before) & (ThrottleTable.retry_time < before)
        return (await self._tx.execute(delete(ThrottleTable).where(is_old))).rowcount


@cache
def _counting(limits: Limits, *, whatever: bool) -> Prepared:
    """The statement of `count`, which is expensive to put together; there are as many as there are limits."""
    now = bindparam("now", type_=TIMESTAMP(timezone=True))
    before: ColumnElement[int] = _COLUMNS.failures
    if limits.memory is not None:
        before = case((ThrottleTable.last_failure_time <= now - literal(limits.memory, Interval), 0), else_=before)
    # Another process, or another call of this one, may have counted with a time that is later than this.
    allowed = (before < limits.free) | (ThrottleTable.retry_time <= now)
    first = insert(ThrottleTable).values(
        key=bindparam("which"), failures=1, last_failure_time=now, retry_time=now + _delay(literal(1), limits)
    )
    statement = first.on_conflict_do_update(
        index_elements=["key"],
        set_={"failures": before + 1, "last_failure_time": now, "retry_time": now + _delay(before + 1, limits)},
        where=None if whatever else allowed,
    )
    return Prepared(statement.returning(ThrottleTable.failures))


def _delay(failures: ColumnElement[int], limits: Limits) -> ColumnElement[timedelta]:
    first, longest = limits.first_delay.total_seconds(), limits.longest_delay.total_seconds()
    doublings = func.least(failures - limits.free, _MOST_DOUBLINGS)
    cases: list[tuple[ColumnElement[bool], float]] = [(failures < limits.free, 0.0)]
    if limits.most is not None:
        cases.append((failures >= limits.most, _FOR_EVER.total_seconds()))
    seconds = case(*cases, else_=func.least(first * func.power(2.0, doublings), longest))
    return func.make_interval(0, 0, 0, 0, 0, 0, seconds, type_=Interval)
