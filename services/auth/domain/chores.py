"""What the worker does for auth."""

from collections.abc import Callable
from datetime import datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from uuid import UUID

import structlog

from services.auth.models.users import User
from services.auth.repository.sessions import Sessions
from services.auth.repository.users import Users
from services.kit.database import Database
from services.kit.mail import Mailer

log = structlog.get_logger()

EXPIRED_KEPT = timedelta(days=30)
# Python breaks a header with longer words into lines of which one is empty: there the headers would end.
MAX_DISPLAYED_NAME = 60


class Chores:
    """The background work of auth; each piece may be done again without harm."""

    def __init__(self, db: Database, mailer: Mailer, clock: Callable[[], datetime]) -> None:
        self._db = db
        self._mailer = mailer
        self._clock = clock

    async def send_welcome_email(self, user_id: str) -> None:
        """Send the welcome mail. A user who is gone gets none."""
        async with self._db.read() as tx:
            user = await Users(tx).by_id(UUID(user_id))
        if user is None:
            log.info("no welcome mail, the user is gone", user_id=user_id)
            return
        await self._mailer.send(welcome_mail(user))

    async def delete_expired_sessions(self) -> None:
        """Remove sessions that expired long ago with their refresh tokens, and tokens that were used up long ago."""
        before = self._clock() - EXPIRED_KEPT
        async with self._db.transaction() as tx:
            sessions = await Sessions(tx).delete_expired(before)
            tokens = await Sessions(tx).delete_exchanged_tokens(before)
        if sessions or tokens:
            log.info("expired sessions deleted", sessions=sessions, tokens=tokens)


def welcome_mail(user: User) -> EmailMessage:
    """The welcome mail. Its Message-ID is the user's, so that a mail that was sent twice is seen to be the same."""
    name = "".join(character for character in user.full_name if character.isprintable())
    local, _, domain = user.email.rpartition("@")
    mail = EmailMessage(policy=SMTP)
    mail["To"] = Address(name[:MAX_DISPLAYED_NAME], local, domain)
    mail["Subject"] = "Welcome to Parley"
    mail["Message-ID"] = f"<welcome.{user.id}@parley>"
    mail.set_content(
        f"Hello {name},\n\n"
        f"your account with the address {user.email} is ready. You can sign in now.\n\n"
        "If it was not you who registered, you can leave this mail unanswered.\n"
    )
    return mail
