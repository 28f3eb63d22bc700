"""The mails that auth sends: plain text that says what it is and what to do if somebody else caused it.

Anybody can register with somebody else's address and any name, so that a name which a mail program could make a link of
is not in them.

Codes stand in the text alone, and in a link if there is one: subjects and Message-IDs are shown and logged elsewhere.
"""

import re
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from urllib.parse import quote

from services.auth.domain.email_codes import CODE_LIFE
from services.auth.models.users import User
from services.kit.ids import uuid7

# Python breaks a header with longer words into lines of which one is empty: there the headers would end.
MAX_DISPLAYED_NAME = 60
_LINK = re.compile(r"://|www[.]|\w[.\u3002\uff0e\uff61]\w{2}", re.IGNORECASE)
"""What a mail program could make a link of: a URL, or what looks like the name of a host. "J.R.R." does not."""
_CODE_MINUTES = CODE_LIFE // timedelta(minutes=1)


def welcome_mail(user: User) -> EmailMessage:
    """The welcome mail. Its Message-ID is the user's, so that a mail that was sent twice is seen to be the same."""
    return _mail(
        user,
        f"welcome.{user.id}",
        "Welcome to Parley",
        f"your account with the address {user.email} is ready. You can sign in now.",
        "If it was not you who registered, you can leave this mail unanswered.",
    )


def password_reset_mail(user: User, code: str, link_template: str) -> EmailMessage:
    """The code to reset a password with."""
    return _mail(
        user,
        f"password-reset.{uuid7()}",
        "Reset your Parley password",
        f"somebody, probably you, asked to reset the password of your account with the address {user.email}.",
        *_code(user, code, link_template),
        "If it was not you, you can leave this mail unanswered: your password stays as it is. Give the code to nobody.",
    )


def email_verification_mail(user: User, code: str, link_template: str) -> EmailMessage:
    """The code to verify an address with."""
    return _mail(
        user,
        f"email-verification.{uuid7()}",
        "Verify your address for Parley",
        f"please show that you read the mail of {user.email}, the address of your account.",
        *_code(user, code, link_template),
        "If it was not you who asked for this mail, somebody may be signed in to your account: change its password. "
        "Give the code to nobody.",
    )


def password_notice_mail(user: User, change_time: datetime) -> EmailMessage:
    """Tells that the password was changed. A mail that was sent twice is seen to be the same."""
    return _mail(
        user,
        f"password-notice.{user.id}.{change_time.timestamp():.0f}",
        "Your Parley password was changed",
        f"the password of your account with the address {user.email} was changed on "
        f"{change_time.astimezone(UTC):%Y-%m-%d at %H:%M} UTC. Devices that were signed in with the old one have to "
        "sign in again.",
        "If it was you, there is nothing to do. If it was not you, reset your password now, and see to it that nobody "
        "else reads your mail.",
    )


def link(template: str, email: str, code: str) -> str:
    """The link that a setting gives the template of."""
    return template.replace("{email}", quote(email, safe="")).replace("{code}", quote(code, safe=""))


def _code(user: User, code: str, link_template: str) -> list[str]:
    where = "Enter this code where you asked for it"
    if not link_template:
        return [f"{where}. It is good once, for {_CODE_MINUTES} minutes:", f"    {code}"]
    return [
        f"{where}, or follow the link. Either is good once, for {_CODE_MINUTES} minutes:",
        f"    {code}",
        link(link_template, user.email, code),
    ]


def _mail(user: User, message_id: str, subject: str, *paragraphs: str) -> EmailMessage:
    name = _displayed(user.full_name)
    local, _, domain = user.email.rpartition("@")
    mail = EmailMessage(policy=SMTP)
    mail["To"] = Address(name, local, domain)
    mail["Subject"] = subject
    mail["Message-ID"] = f"<{message_id}@parley>"
    mail.set_content("\n\n".join((f"Hello {name}," if name else "Hello,", *paragraphs)) + "\n")
    return mail


def _displayed(full_name: str) -> str:
    """The beginning of a name; nothing of one that could become a link."""
    name = "".join(character for character in full_name if character.isprintable())
    return "" if _LINK.search(name) else name[:MAX_DISPLAYED_NAME].strip()
