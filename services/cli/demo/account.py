"""The chapter before the last: devices, the password, and what a mailed code is good for."""

import asyncio
import re
from email.message import EmailMessage
from time import monotonic
from uuid import uuid4

from grpc import StatusCode

from parley.agent.v1 import agent_service_pb2 as agent_pb2
from parley.auth.v1 import auth_service_pb2 as pb2
from services.cli.demo.identity import current_user, sign_in
from services.cli.demo.mailbox import Mailbox, catch
from services.cli.demo.steps import Steps, WrongAnswer, expect, is_refused, refused
from services.cli.demo.suite import Person, Suite, call

PROMISED_SECONDS = 5.0
POLL_SECONDS = 0.1
_CODE = re.compile(r"^ +([0-9A-Z]{4}(?:-[0-9A-Z]{4}){3})\s*$", re.MULTILINE)


async def keep(suite: Suite, steps: Steps, mailbox: Mailbox, ann: Person) -> None:
    """Ann looks after her account: she ends sessions, changes her password, forgets it, and gets back in."""
    phone, tablet = ann.on_another_device(), ann.on_another_device()

    async with steps.step("Ann signs in on her phone and her tablet, and sees three sessions"):
        await sign_in(suite, phone, "phone")
        await sign_in(suite, tablet, "tablet")
        sessions = (await call(suite.auth.ListSessions, pb2.ListSessionsRequest(), ann)).sessions
        expect([session.device_label for session in sessions], ["tablet", "phone", "parley demo"], "her devices")
        expect([session.is_current for session in sessions], [False, False, True], "which of them calls")

    async with steps.step("She ends the phone's session; within 5 seconds the agent service refuses its token, too"):
        expect(await _is_shut_out(suite, phone), False, "that the phone is shut out")
        (on_the_phone,) = (session.id for session in sessions if session.device_label == "phone")
        await call(suite.auth.RevokeSession, pb2.RevokeSessionRequest(session_id=on_the_phone), ann)
        await _until_shut_out(suite, phone)

    async with steps.step("She changes her password; a bad one is refused, and the tablet is signed out"):
        old, ann.password = ann.password, str(uuid4())
        request = pb2.ChangePasswordRequest(current_password=old, new_password="passwordpassword")
        with refused(StatusCode.INVALID_ARGUMENT, "PASSWORD_WEAK", "a password that is guessed first"):
            await call(suite.auth.ChangePassword, request, ann)
        request.new_password = ann.password
        await call(suite.auth.ChangePassword, request, ann)
        await _until_shut_out(suite, tablet)
        expect(await current_user(suite, ann), ann.id, "who is signed in here")

    async with steps.step("She shows with a code from a mail that the address is hers"):
        await call(suite.auth.RequestEmailVerification, pb2.RequestEmailVerificationRequest(), ann)
        code = _code_in(await catch(mailbox, ann.email, "Verify"))
        user = (await call(suite.auth.VerifyEmail, pb2.VerifyEmailRequest(code=code), ann)).user
        expect(user.email_verified, True, "that the address is verified")

    async with steps.step("She forgets the password, and sets another with a code from a mail; a used code is refused"):
        await call(suite.auth.RequestPasswordReset, pb2.RequestPasswordResetRequest(email=ann.email))
        code = _code_in(await catch(mailbox, ann.email, "Reset"))
        forgotten, ann.password = ann.password, str(uuid4())
        reset = pb2.ResetPasswordRequest(email=ann.email, code=code, new_password=ann.password)
        await call(suite.auth.ResetPassword, reset)
        with refused(StatusCode.INVALID_ARGUMENT, "CODE_INVALID", "a code that was used"):
            await call(suite.auth.ResetPassword, reset)

    async with steps.step("That has signed her out everywhere; the new password opens, the forgotten one does not"):
        await _until_shut_out(suite, ann)
        await sign_in(suite, ann)
        with refused(StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", "the forgotten password"):
            await call(suite.auth.Login, pb2.LoginRequest(email=ann.email, password=forgotten))


async def _until_shut_out(suite: Suite, person: Person) -> None:
    """Wait until a service that is not auth refuses the person's token. Raises WrongAnswer if it takes too long."""
    ends_at = monotonic() + PROMISED_SECONDS
    while not await _is_shut_out(suite, person):
        if monotonic() > ends_at:
            raise WrongAnswer(f"the agent service takes the token of an ended session after {PROMISED_SECONDS:.0f} s")
        await asyncio.sleep(POLL_SECONDS)


async def _is_shut_out(suite: Suite, person: Person) -> bool:
    request = agent_pb2.ListAgentsRequest(page_size=1)
    return await is_refused(
        call(suite.agent.ListAgents, request, person), StatusCode.UNAUTHENTICATED, "SESSION_REVOKED"
    )


def _code_in(mail: EmailMessage) -> str:
    found = _CODE.search(mail.get_content())
    if found is None:
        raise WrongAnswer(f"there is no code in the mail {str(mail['Subject'])!r}")
    return found[1]
