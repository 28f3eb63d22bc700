"""Who cancels an attempt when it is made is not spared: its failure counts as any other and is in the audit log."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from parley.auth.v1 import auth_service_pb2 as pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.domain.email_codes import new_code
from services.auth.domain.throttle import Attempt, Throttle
from services.kit import finishing
from services.kit.finishing import finish
from tests.auth.people import (
    EMAIL,
    OTHER_PASSWORD,
    PASSWORD,
    WRONG_PASSWORD,
    as_session,
    audited,
    execute,
    login,
    register,
)
from tests.support import until

DEADLINE = 20.0
WRONG = {
    "Login": (pb2.LoginRequest(email=EMAIL, password=WRONG_PASSWORD), "SIGN_IN_FAILED", 2),
    "ChangePassword": (
        pb2.ChangePasswordRequest(current_password=WRONG_PASSWORD, new_password=OTHER_PASSWORD),
        "PASSWORD_CHANGE_FAILED",
        2,
    ),
    "ResetPassword": (
        pb2.ResetPasswordRequest(email=EMAIL, code=new_code(), new_password=OTHER_PASSWORD),
        "PASSWORD_RESET_FAILED",
        1,
    ),
    "VerifyEmail": (pb2.VerifyEmailRequest(code=new_code()), "EMAIL_VERIFICATION_FAILED", 2),
}
COUNTED = "SELECT failures FROM auth.throttles WHERE failures > 0"


class Cancelling:
    """Calls that are cancelled when their attempt has begun and nothing was checked yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun, self._go_on = asyncio.Event(), asyncio.Event()
        self._askers: list[finishing.Asker] = []
        askers, begin = self._askers, Throttle.begin

        class Remembered(finishing.Asker):
            def __init__(self) -> None:
                super().__init__()
                askers.append(self)

        async def held(throttle: Throttle, *arguments: Any, **named: Any) -> Attempt:
            attempt = await begin(throttle, *arguments, **named)
            self._begun.set()
            await asyncio.wait_for(self._go_on.wait(), DEADLINE)
            return attempt

        monkeypatch.setattr(finishing, "Asker", Remembered)
        monkeypatch.setattr(Throttle, "begin", held)

    async def cancel(self, call: grpc.aio.UnaryUnaryCall[Any, Any]) -> None:
        """Cancel it, and have the server go on once it knows."""
        sent = asyncio.ensure_future(call.code())
        await asyncio.wait_for(self._begun.wait(), DEADLINE)
        call.cancel()
        assert await sent == grpc.StatusCode.CANCELLED
        await until(lambda: any(asker.is_gone for asker in self._askers))
        self._go_on.set()


@pytest.mark.parametrize("method", WRONG)
async def test_a_wrong_attempt_that_is_cancelled_counts_for_account_and_address_and_is_in_the_audit_log(
    auth: AuthServiceStub, database_url: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    await register(auth)
    me = as_session(await login(auth))
    execute(database_url, "DELETE FROM auth.throttles")
    request, audit, counters = WRONG[method]
    await Cancelling(monkeypatch).cancel(getattr(auth, method)(request, metadata=me))
    await until(lambda: bool(audited(database_url, audit)))
    assert execute(database_url, COUNTED) == [(1,)] * counters


async def test_a_login_that_is_cancelled_and_was_right_has_not_failed_and_starts_no_session(
    auth: AuthServiceStub, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(auth)
    execute(database_url, "DELETE FROM auth.throttles")
    request = pb2.LoginRequest(email=EMAIL, password=PASSWORD)
    await Cancelling(monkeypatch).cancel(auth.Login(request))
    await until(lambda: not execute(database_url, COUNTED))
    assert execute(database_url, "SELECT count(*) FROM auth.sessions") == [(0,)]


async def test_work_is_finished_before_its_cancelled_caller_ends_and_broken_off_when_it_takes_too_long() -> None:
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), []

    async def work(_: finishing.Asker) -> None:
        begun.set()
        try:
            await go_on.wait()
        finally:
            ended.append(go_on.is_set())

    async def cancel(seconds: float, then: Callable[[], None]) -> None:
        begun.clear()
        caller = asyncio.create_task(finish(work, seconds=seconds))
        await begun.wait()
        caller.cancel()
        await asyncio.sleep(0)
        assert not caller.done()
        then()
        await asyncio.wait((caller,), timeout=DEADLINE)
        assert caller.cancelled()

    await cancel(DEADLINE, go_on.set)
    go_on.clear()
    await cancel(0.01, lambda: None)
    assert ended == [True, False]
