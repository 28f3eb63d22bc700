"""The mails that the worker sends for auth. Each may be sent again without harm."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from uuid import UUID

import structlog

from services.auth.domain.accounts import email_key
from services.auth.domain.email_codes import EmailCodes
from services.auth.domain.mails import email_verification_mail, password_notice_mail, password_reset_mail, welcome_mail
from services.auth.models.users import CodePurpose, User, UserState
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.mail import Mailer

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LinkTemplates:
    """Where codes can be entered by following a link: URLs with `{code}` and `{email}`; empty for no link."""

    password_reset: str = ""
    email_verification: str = ""


class Mailings:
    """Mails to users. One who is gone, or whose account is closed, gets none that were meant for the account's use.

    Codes are made here and not where they are asked for: the job that waits in between holds no secret. A job that is
    repeated makes a new code, and only the newest is good.
    """

    def __init__(self, db: Database, mailer: Mailer, codes: EmailCodes, links: LinkTemplates) -> None:
        self._db = db
        self._mailer = mailer
        self._codes = codes
        self._links = links

    async def send_welcome_email(self, user_id: str) -> None:
        """Send the welcome mail."""
        await self._send_to(user_id, "welcome", welcome_mail)

    async def send_password_notice(self, user_id: str, change_time: str) -> None:
        """Tell a user that its password was changed."""
        moment = datetime.fromisoformat(change_time)
        await self._send_to(user_id, "password notice", lambda user: password_notice_mail(user, moment))

    async def send_password_reset(self, email: str) -> None:
        """Send a code to reset a password to an address as somebody typed it, if a user has it.

        Nothing that was typed goes into the log.
        """
        async with self._db.transaction() as tx:
            user = await Users(tx).by_email(email_key(email))
            if user is None or user.state != UserState.ACTIVE:
                log.info("no mail, nobody who may sign in has the address", mail="password reset")
                return
            code = await self._codes.make(tx, user.id, CodePurpose.PASSWORD_RESET)
        await self._mailer.send(password_reset_mail(user, code, self._links.password_reset))

    async def send_email_verification(self, user_id: str) -> None:
        """Send a code to verify its address to a user who has not done so yet."""
        async with self._db.transaction() as tx:
            user = await Users(tx).by_id(UUID(user_id))
            if user is None or user.state != UserState.ACTIVE or user.email_verify_time is not None:
                log.info("no mail, it is not wanted any more", mail="email verification", user_id=user_id)
                return
            code = await self._codes.make(tx, user.id, CodePurpose.EMAIL_VERIFICATION)
        await self._mailer.send(email_verification_mail(user, code, self._links.email_verification))

    async def _send_to(self, user_id: str, name: str, write: Callable[[User], EmailMessage]) -> None:
        async with self._db.read() as tx:
            user = await Users(tx).by_id(UUID(user_id))
        if user is None:
            log.info("no mail, the user is gone", mail=name, user_id=user_id)
            return
        await self._mailer.send(write(user))
