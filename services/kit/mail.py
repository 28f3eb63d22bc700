"""Sending mail: over SMTP when one is configured, otherwise into a folder, and saying so."""

import asyncio
from email.message import EmailMessage
from pathlib import Path
from typing import Literal

import aiosmtplib
import structlog
from pydantic import Field, SecretStr

from services.kit.ids import uuid7
from services.kit.settings import DatabaseSettings, Port

log = structlog.get_logger()

SMTP_TIMEOUT = 15.0


class MailSettings(DatabaseSettings):
    """Where mail goes."""

    smtp_host: str = Field(
        "", description="SMTP server; empty: mails are written to the folder `mail` of the data folder."
    )
    smtp_port: Port = Field(587, description="Port of the SMTP server.")
    smtp_security: Literal["none", "starttls", "tls"] = Field(
        "starttls", description="How the connection is secured: `none`, `starttls` or `tls`."
    )
    smtp_username: str = Field("", description="User name for SMTP AUTH; empty: none.")
    smtp_password: SecretStr = Field(SecretStr(""), description="Password for SMTP AUTH.")
    mail_from: str = Field("Parley <parley@localhost>", description="The sender of mails.")


class Mailer:
    """Delivers mails. `send` returns once the SMTP server, or the file system, has taken the mail."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings
        self._folder = settings.data_dir / "mail"

    async def send(self, mail: EmailMessage) -> None:
        """Deliver one mail. Raises aiosmtplib.SMTPException or OSError; sending again is the caller's to decide."""
        mail["From"] = self._settings.mail_from
        if not self._settings.smtp_host:
            path = await asyncio.to_thread(_write, self._folder, mail)
            log.info("mail written to a folder, as no SMTP server is set", path=str(path))
            return
        await aiosmtplib.send(
            mail,
            hostname=self._settings.smtp_host,
            port=self._settings.smtp_port,
            use_tls=self._settings.smtp_security == "tls",
            start_tls=self._settings.smtp_security == "starttls",
            username=self._settings.smtp_username or None,
            password=self._settings.smtp_password.get_secret_value() or None,
            timeout=SMTP_TIMEOUT,
        )
        log.info("mail sent", message_id=mail["Message-ID"])


def _write(folder: Path, mail: EmailMessage) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{uuid7()}.eml"
    partial = path.with_suffix(".partial")
    partial.write_bytes(mail.as_bytes())
    partial.chmod(0o600)
    return partial.rename(path)
