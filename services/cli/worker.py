"""`parley worker`: the background jobs of all services, in one process."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from services.agent.settings import AgentJobSettings
from services.agent.wiring import open_agent_jobs
from services.auth.settings import AuthJobSettings
from services.auth.wiring import open_auth_jobs
from services.chat.wiring import open_chat_jobs
from services.file.settings import FileJobSettings
from services.file.wiring import open_file_jobs
from services.kit.database import Database
from services.kit.jobs import Job, run_worker
from services.kit.logs import configure_logging
from services.kit.process import refuse, run_until_signal
from services.kit.settings import SettingUnusable, load


def run() -> int:
    """Run jobs until SIGTERM or SIGINT; the exit code."""
    auth, agent, file = load(AuthJobSettings), load(AgentJobSettings), load(FileJobSettings)
    configure_logging(auth, "worker")

    async def work(stop: asyncio.Event) -> None:
        async with Database.open(auth, role="worker") as db:
            if not await _ready_before(db, stop):
                return
        async with AsyncExitStack() as stack:
            jobs: list[Job] = [
                *await stack.enter_async_context(open_auth_jobs(auth)),
                *await stack.enter_async_context(open_agent_jobs(agent)),
                *await stack.enter_async_context(open_file_jobs(file)),
                *await stack.enter_async_context(open_chat_jobs(auth)),
            ]
            await run_worker(auth, jobs, stop=stop, ready=lambda: _say_ready(auth.data_dir))

    try:
        return run_until_signal(work)
    except SettingUnusable as unusable:
        return refuse(unusable)


async def _ready_before(db: Database, stop: asyncio.Event) -> bool:
    """Wait for the database and its schema; False if the worker is stopped before they are there."""
    waits = [asyncio.create_task(db.wait_ready()), asyncio.create_task(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    return not stop.is_set()


def _say_ready(data_dir: Path) -> None:
    """Leave a file that says that the worker takes jobs, for whoever started it."""
    path = data_dir / "run" / "worker.ready"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
