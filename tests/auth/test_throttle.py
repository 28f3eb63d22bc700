"""Guessing gets slow, for an account and for an address, whatever the process that is asked."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import log2
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2 as details_pb2

from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain.email_codes import CODE_LIFE, MOST_TRIES
from services.auth.domain.throttle import MOST_PASSWORDS, UNUSED_KEPT, Attempt, Throttle, ThrottleKind
from services.auth.errors import PasswordLocked, TooManyAttempts
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.kit.database import Database
from services.kit.origin import NOWHERE, Origin
from tests.auth.people import EMAIL, PASSWORD, WRONG_PASSWORD, audited, execute, login, register
from tests.conftest import Serve
from tests.support import detail, raises_status, reason_of, status_of

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


async def test_free_attempts_are_free_for_a_process_whose_clock_is_behind(throttle: Throttle, clock: Clock) -> None:
    for _ in range(FREE):
        await throttle.begin(SIGN_IN, account="ann", origin=NOWHERE)
        clock.now -= timedelta(seconds=1)
    await wait_of(throttle)


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
        await throttle.clear(tx, email="ann", user_id=UUID(int=1))
    await fail(throttle, database)


async def test_what_was_withdrawn_does_not_count(throttle: Throttle, database: Database) -> None:
    for _ in range(FREE * 3):
        attempt = await throttle.begin(SIGN_IN, account="ann", origin=NOWHERE)
        async with database.transaction() as tx:
            await attempt.withdrawn(tx)


async def test_a_hundred_registrations_an_hour_are_free_for_an_address_and_then_each_waits_for_longer(
    throttle: Throttle, clock: Clock
) -> None:
    origin = Origin("192.0.2.7", "")
    for _ in range(2):
        for _ in range(FREE_OF_AN_ADDRESS):
            clock.now += timedelta(seconds=30)
            await throttle.begin(ThrottleKind.REGISTER, origin=origin)
        waits = []
        for _ in range(8):
            waits.append((await wait_of(throttle, ThrottleKind.REGISTER, origin=origin)).total_seconds())
            clock.now += timedelta(seconds=waits[-1])
            await throttle.begin(ThrottleKind.REGISTER, origin=origin)
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        await throttle.begin(ThrottleKind.REGISTER, origin=Origin("192.0.2.8", ""))
        clock.now = clock.now.replace(minute=0, second=0) + timedelta(hours=1)  # Steady use is not for ever remembered.


async def test_who_registers_too_much_from_one_address_has_to_wait_whether_an_address_is_taken_or_not(
    auth: AuthServiceStub, database_url: str
) -> None:
    await register(auth)
    execute(database_url, "UPDATE auth.throttles SET failures = 100, retry_time = now() + interval '1 minute'")
    for email in (EMAIL, "bob@example.com"):
        with raises_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS"):
            await register(auth, email)
    await login(auth)


async def test_who_registers_leaves_those_who_sign_in_half_of_the_places(
    serve: Serve, settings: Callable[..., Any]
) -> None:
    few = settings(AuthSettings, auth_hash_slots=1, auth_hash_queue=7)
    auth = AuthServiceStub(await serve(open_auth, few, own_keys=True))
    await register(auth)
    refused = asyncio.Event()
    registered = 0

    async def keep_registering(number: int) -> None:
        nonlocal registered
        while True:
            try:
                await register(auth, f"{number}@example.com")
            except grpc.aio.AioRpcError as error:
                if reason_of(status_of(error)) != "OVERLOADED":
                    raise
                refused.set()
            else:
                registered += 1
                return

    async with asyncio.timeout(20), asyncio.TaskGroup() as strangers:
        for number in range(30):
            strangers.create_task(keep_registering(number))
        await refused.wait()
        await asyncio.gather(*(login(auth) for _ in range(3)))
        assert registered < 30  # so that there was somebody to leave a place to them
    assert registered == 30


async def test_five_mails_are_free_within_an_hour(throttle: Throttle, clock: Clock) -> None:
    for _ in range(2):
        for _ in range(FREE):
            await throttle.begin(ThrottleKind.MAIL, account="ann", origin=NOWHERE)
        assert await wait_of(throttle, ThrottleKind.MAIL) == timedelta(minutes=1)
        await throttle.begin(SIGN_IN, account="ann", origin=NOWHERE)  # is counted for itself
        clock.now += timedelta(hours=1)


async def test_a_stranger_at_one_address_does_not_use_up_the_mails_of_an_account(
    throttle: Throttle, clock: Clock
) -> None:
    stranger, started, mails = Origin("192.0.2.66", ""), clock.now, 0
    while clock.now < started + timedelta(hours=12):
        try:
            await throttle.begin(ThrottleKind.MAIL, account="ann", origin=stranger)
            mails += 1
        except TooManyAttempts as refused:
            clock.now += refused.retry_after or timedelta()
            if mails % 3 == 0:
                await throttle.begin(ThrottleKind.MAIL, account="ann", origin=Origin("192.0.2.7", ""))
                clock.now += timedelta(minutes=20)
    assert mails < 12 * 12


async def test_twenty_mails_an_hour_are_free_for_an_account_whoever_asks(throttle: Throttle, clock: Clock) -> None:
    for _ in range(2):
        for number in range(20):
            await throttle.begin(ThrottleKind.MAIL, account="ann", origin=Origin(f"192.0.2.{number}", ""))
        other = Origin("192.0.2.77", "")
        assert await wait_of(throttle, ThrottleKind.MAIL, origin=other) == timedelta(minutes=1)
        clock.now += timedelta(hours=1)


async def test_an_address_gets_fewer_tries_than_a_code_has(throttle: Throttle, clock: Clock) -> None:
    started, tries = clock.now, 0
    while clock.now < started + CODE_LIFE:
        try:
            await throttle.begin(ThrottleKind.RESET, origin=Origin("192.0.2.66", ""))
            tries += 1
        except TooManyAttempts as refused:
            clock.now += refused.retry_after or timedelta()
    assert 20 < tries < MOST_TRIES / 2
    await throttle.begin(ThrottleKind.RESET, origin=Origin("192.0.2.7", ""))


async def test_of_codes_presented_at_once_no_more_than_the_free_ones_are_checked(throttle: Throttle) -> None:
    origin = Origin("192.0.2.66", "")
    attempts = (throttle.begin(ThrottleKind.RESET, origin=origin) for _ in range(60))
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, Attempt) for result in results) == 20


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


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"])
async def test_of_fifty_guesses_at_once_over_two_servers_no_more_than_the_free_ones_are_checked(
    serve: Serve, settings: Callable[..., Any], database_url: str, email: str
) -> None:
    servers = [AuthServiceStub(await serve(open_auth, settings(AuthSettings), own_keys=True)) for _ in range(2)]
    await register(servers[0])
    started = time.monotonic()
    guesses = [login(servers[number % 2], email, WRONG_PASSWORD) for number in range(50)]
    answers = await asyncio.gather(*guesses, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refused) == 50
    reasons = [reason_of(status_of(answer)) for answer in refused]
    checked = reasons.count("CREDENTIALS_INVALID")
    assert checked + reasons.count("TOO_MANY_ATTEMPTS") == 50
    # After a second one more is allowed, after three the next: where the machine is busy, that time can pass.
    assert FREE <= checked <= FREE + log2(time.monotonic() - started + 1)
    assert len(audited(database_url, "SIGN_IN_FAILED")) == checked
    for answer in refused:
        status = status_of(answer)
        if reason_of(status) == "TOO_MANY_ATTEMPTS":
            retry = detail(status, details_pb2.RetryInfo)
            assert retry is not None
            assert timedelta() < retry.retry_delay.ToTimedelta() <= timedelta(seconds=16)
    if email == EMAIL:
        execute(database_url, "UPDATE auth.throttles SET retry_time = now() + interval '1 hour' WHERE failures >= 5")
        with raises_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ATTEMPTS"):
            await login(servers[0], password=PASSWORD)  # The right one has to wait as well.


async def test_who_is_turned_away_because_too_much_is_to_be_done_has_not_failed(
    serve: Serve, settings: Callable[..., Any], database_url: str
) -> None:
    few = settings(AuthSettings, auth_hash_slots=1, auth_hash_queue=1)
    auth = AuthServiceStub(await serve(open_auth, few, own_keys=True))
    emails = [f"{number}@example.com" for number in range(20)]
    answers = await asyncio.gather(*(login(auth, email) for email in emails), return_exceptions=True)
    reasons = [reason_of(status_of(answer)) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert set(reasons) == {"CREDENTIALS_INVALID", "OVERLOADED"}
    with psycopg.connect(database_url) as connection:
        counted = connection.execute("SELECT failures FROM auth.throttles WHERE failures > 0").fetchall()
    checked = reasons.count("CREDENTIALS_INVALID")
    assert sorted(counted) == [(1,)] * checked + [(checked,)]  # each account, and their address
