"""Guessing gets slow, for an account and for an address, whatever the process that is asked."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from services.auth.domain.throttle import MOST_PASSWORDS, UNUSED_KEPT, Throttle, ThrottleKind
from services.auth.errors import PasswordLocked, TooManyAttempts
from services.kit.database import Database
from services.kit.origin import NOWHERE, Origin

SIGN_IN = ThrottleKind.SIGN_IN
FREE, FREE_OF_AN_ADDRESS = 5, 100


class Clock:
    """A time that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The time for the throttle."""
    return Clock()


@pytest.fixture
def throttle(database: Database, clock: Clock) -> Throttle:
    """A throttle on this test's database."""
    return Throttle(database, clock)


async def fail(throttle: Throttle, database: Database, account: str = "ann", origin: Origin = NOWHERE) -> None:
    """One attempt that is allowed and wrong."""
    attempt = await throttle.begin(SIGN_IN, account=account, origin=origin)
    async with database.transaction() as tx:
        await attempt.failed(tx)


async def wait_of(
    throttle: Throttle, kind: ThrottleKind = SIGN_IN, account: str = "ann", origin: Origin = NOWHERE
) -> timedelta:
    """How long an attempt has to wait that is not allowed."""
    with pytest.raises(TooManyAttempts) as caught:
        await throttle.begin(kind, account=account, origin=origin)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


async def test_after_the_free_failures_each_wait_is_twice_the_one_before_up_to_a_quarter_of_an_hour(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    for _ in range(FREE):
        await fail(throttle, database)
    waits = []
    for _ in range(12):
        waits.append((await wait_of(throttle)).total_seconds())
        clock.now += timedelta(seconds=waits[-1] / 4)
        assert (await wait_of(throttle)).total_seconds() == waits[-1] * 3 / 4  # Asking did not make it longer.
        clock.now += timedelta(seconds=waits[-1] * 3 / 4)
        await fail(throttle, database)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    await fail(throttle, database, account="bob")


async def test_a_success_forgets_the_failures(throttle: Throttle, database: Database) -> None:
    for _ in range(3):
        for _ in range(FREE - 1):
            await fail(throttle, database)
        attempt = await throttle.begin(SIGN_IN, account="ann", origin=NOWHERE)
        async with database.transaction() as tx:
            await attempt.succeeded(tx)


async def test_after_a_hundred_failures_no_password_is_taken_until_the_account_is_cleared(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    for _ in range(MOST_PASSWORDS):
        await fail(throttle, database)
        clock.now += timedelta(minutes=15)
    for later in (timedelta(), timedelta(days=1), UNUSED_KEPT * 2):
        clock.now += later
        async with database.transaction() as tx:
            assert await throttle.delete_unused(tx) == 0
        with pytest.raises(PasswordLocked):
            await throttle.begin(SIGN_IN, account="ann", origin=NOWHERE)
    async with database.transaction() as tx:
        await throttle.clear(tx, "ann")
    await fail(throttle, database)


async def test_what_was_withdrawn_does_not_count(throttle: Throttle, database: Database) -> None:
    for _ in range(FREE * 3):
        attempt = await throttle.begin(SIGN_IN, account="ann", origin=NOWHERE)
        async with database.transaction() as tx:
            await attempt.withdrawn(tx)


async def test_five_mails_are_free_within_an_hour(throttle: Throttle, clock: Clock) -> None:
    for _ in range(2):
        for _ in range(FREE):
            await throttle.begin(ThrottleKind.MAIL, account="ann", origin=NOWHERE)
        assert await wait_of(throttle, ThrottleKind.MAIL) == timedelta(minutes=1)
        await throttle.begin(SIGN_IN, account="ann", origin=NOWHERE)  # is counted for itself
        clock.now += timedelta(hours=1)


@pytest.mark.parametrize(
    ("failing", "same", "other"),
    [
        ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:ffff::1", "2001:db8:1:3:3:4:5:6"),
    ],
)
async def test_an_address_that_fails_with_many_accounts_has_to_wait_up_to_a_minute_and_another_has_not(
    throttle: Throttle, database: Database, clock: Clock, failing: str, same: str, other: str
) -> None:
    origin = Origin(failing, "")
    for number in range(FREE_OF_AN_ADDRESS):
        await fail(throttle, database, f"user {number}", origin)
    waits = []
    for number in range(8):
        waits.append((await wait_of(throttle, account="ann", origin=Origin(same, ""))).total_seconds())
        clock.now += timedelta(seconds=waits[-1])
        await fail(throttle, database, f"another {number}", Origin(same, ""))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    await fail(throttle, database, "bob", Origin(other, ""))
    clock.now += timedelta(minutes=15)
    for number in range(FREE_OF_AN_ADDRESS):
        await fail(throttle, database, f"third {number}", origin)


async def test_who_succeeds_from_an_address_does_not_slow_it_down(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    origin = Origin("192.0.2.7", "")
    for number in range(FREE_OF_AN_ADDRESS - 1):
        await fail(throttle, database, f"user {number}", origin)
    attempts = [await throttle.begin(SIGN_IN, account=f"good {number}", origin=origin) for number in range(20)]
    async with database.transaction() as tx:
        for attempt in attempts:
            await attempt.succeeded(tx)
    await fail(throttle, database, "user", origin)
    clock.now += timedelta(seconds=1)
    for number in range(20):
        attempt = await throttle.begin(SIGN_IN, account=f"good {number}", origin=origin)
        async with database.transaction() as tx:
            await attempt.succeeded(tx)
        clock.now += timedelta(minutes=1)
    for number in range(FREE_OF_AN_ADDRESS):  # Successes did not keep the failures in mind.
        await fail(throttle, database, f"another {number}", origin)


async def test_attempts_that_an_address_may_not_make_lock_no_account(throttle: Throttle, database: Database) -> None:
    origin = Origin("192.0.2.7", "")
    for number in range(FREE_OF_AN_ADDRESS):
        await fail(throttle, database, f"user {number}", origin)
    for _ in range(FREE * 2):
        await wait_of(throttle, origin=origin)
    for _ in range(FREE):
        await fail(throttle, database)


async def test_counters_that_nobody_used_for_long_are_removed_and_hold_no_address(
    throttle: Throttle, database: Database, clock: Clock, database_url: str
) -> None:
    await fail(throttle, database, "ann@example.com", Origin("192.0.2.7", ""))
    with psycopg.connect(database_url) as connection:
        stored = str(connection.execute("SELECT * FROM auth.throttles").fetchall())
    assert "ann" not in stored
    assert "192.0.2.7" not in stored
    async with database.transaction() as tx:
        assert await throttle.delete_unused(tx) == 0
    clock.now += UNUSED_KEPT + timedelta(seconds=1)
    async with database.transaction() as tx:
        assert await throttle.delete_unused(tx) == 2
