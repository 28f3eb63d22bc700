"""Mail in tests: a worker that sends it, and an SMTP server that receives it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP

from services.auth.settings import AuthJobSettings
from services.auth.wiring import open_auth_jobs
from services.kit.jobs import run_worker
from tests.support import until

DEADLINE = 20.0


class Mailbox:
    """What an SMTP server has received."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.refuse = 0

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:
        """Take a mail, or refuse it for the moment."""
        if self.refuse:
            self.refuse -= 1
            return "451 later, please"
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=default)))
        return "250 OK"

    async def next(self, subject: str, *, than: int = 0) -> Any:
        """The first mail with this subject after so many others with it, once it has come."""

        def found() -> list[Any]:
            return [mail for _, mail in self.mails if mail["Subject"] == subject]

        await until(lambda: len(found()) > than)
        return found()[than]


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Mailbox, dict[str, Any]]]:
    """A real SMTP server, and the settings that lead to it."""
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: SMTP(mailbox, loop=loop), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield mailbox, {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_security": "none"}


@asynccontextmanager
async def working(settings: AuthJobSettings) -> AsyncIterator[None]:
    """A worker for the time of the block."""
    stop, ready = asyncio.Event(), asyncio.Event()
    async with open_auth_jobs(settings) as jobs:
        task = asyncio.create_task(run_worker(settings, jobs, stop=stop, ready=ready.set))
        try:
            await asyncio.wait((task, asyncio.create_task(ready.wait())), return_when=asyncio.FIRST_COMPLETED)
            yield
        finally:
            stop.set()
            await task
