"""Where the suite's mails are caught: in the folder that it writes them to, or by SMTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol

from aiosmtpd.smtp import SMTP, Envelope
from aiosmtpd.smtp import Session as SmtpSession

from services.cli.demo.steps import NotRunning, WrongAnswer

MAIL_SECONDS = 15.0
POLL_SECONDS = 0.1


class Mailbox(Protocol):
    """Mails of the suite."""

    def mails(self) -> list[EmailMessage]:
        """Those that are there by now."""

    @property
    def place(self) -> str:
        """Where they are looked for."""


async def catch(mailbox: Mailbox, recipient: str, subject: str = "Welcome") -> EmailMessage:
    """The mail to this address with this in its subject. Raises WrongAnswer if it does not come in time."""
    try:
        async with asyncio.timeout(MAIL_SECONDS):
            while True:
                to_them = [mail for mail in mailbox.mails() if recipient in str(mail["To"])]
                found = [mail for mail in to_them if subject in str(mail["Subject"])]
                if found:
                    return found[0]
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise WrongAnswer(
            f"no mail '{subject}…' to {recipient} within {MAIL_SECONDS:.0f} s {mailbox.place}; is the worker running? "
            "If the suite sends by SMTP, name where to with --smtp-listen, and if its data lie elsewhere, --mail-dir"
        ) from None


@asynccontextmanager
async def open_mailbox(folder: Path, smtp_listen: str | None) -> AsyncIterator[Mailbox]:
    """The mailbox for the time of the block: the folder, or an SMTP server at `HOST:PORT`."""
    if smtp_listen is None:
        yield _Folder(folder)
        return
    host, _, port = smtp_listen.rpartition(":")
    received = _Received(smtp_listen)
    try:
        server = await asyncio.get_running_loop().create_server(lambda: SMTP(received), host or "127.0.0.1", int(port))
    except (ValueError, OSError) as error:
        raise NotRunning(f"cannot receive mails at {smtp_listen}: {error}") from None
    try:
        yield received
    finally:
        server.close()


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, EmailMessage] = {}

    def mails(self) -> list[EmailMessage]:
        for path in self._folder.glob("*.eml"):
            if path not in self._known:
                self._known[path] = message_from_bytes(path.read_bytes(), policy=policy.default)
        return list(self._known.values())

    @property
    def place(self) -> str:
        return f"in the folder {self._folder}"


class _Received:
    def __init__(self, address: str) -> None:
        self._address = address
        self._mails: list[EmailMessage] = []

    async def handle_DATA(self, _server: SMTP, _session: SmtpSession, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd names it
        self._mails.append(message_from_bytes(envelope.original_content or b"", policy=policy.default))
        return "250 OK"

    def mails(self) -> list[EmailMessage]:
        return self._mails

    @property
    def place(self) -> str:
        return f"by SMTP at {self._address}"
