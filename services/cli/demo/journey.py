"""The chapters in their order."""

import uuid
from contextlib import AsyncExitStack
from pathlib import Path

from services.cli.demo import account, agents, files, identity, rooms, runs
from services.cli.demo.mailbox import open_mailbox
from services.cli.demo.steps import Steps
from services.cli.demo.suite import Addresses, Suite


async def travel(addresses: Addresses, steps: Steps, mails: Path, smtp_listen: str | None) -> None:
    """Go through it all as two people whom no other run knows. Raises NotRunning and WrongAnswer."""
    async with AsyncExitStack() as stack:
        suite = await stack.enter_async_context(Suite.connect(addresses))
        mailbox = await stack.enter_async_context(open_mailbox(mails, smtp_listen))
        run = uuid.uuid4().hex[:12]
        ann, bob = await identity.arrive(suite, steps, mailbox, run)
        await agents.manage(suite, steps, ann, bob)
        await runs.work(suite, steps, ann, bob)
        await files.carry(suite, steps, ann, bob)
        await rooms.talk(suite, steps, ann, bob)
        await account.keep(suite, steps, mailbox, ann)
        await identity.leave(suite, steps, ann, bob)
        steps.finish()
