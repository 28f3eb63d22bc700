"""`parley worker`: the background jobs of all services, in one process."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from services.auth.settings import AuthJobSettings
from services.auth.wiring import open_auth_jobs
from services.file.settings import FileJobSettings
from services.file.wiring import open_file_jobs
from services.kit.jobs import Job, run_worker
from services.kit.logs import configure_logging
from services.kit.process import run_until_signal
from services.kit.settings import load


def run() -> int:
    """Run jobs until SIGTERM or SIGINT; the exit code."""
    auth, file = load(AuthJobSettings), load(FileJobSettings)
    configure_logging(auth, "worker")

    async def work(stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            jobs: list[Job] = [
                *await stack.enter_async_context(open_auth_jobs(auth)),
                *await stack.enter_async_context(open_file_jobs(file)),
            ]
            await run_worker(auth, jobs, stop=stop, ready=lambda: _say_ready(auth.data_dir))

    return run_until_signal(work)


def _say_ready(data_dir: Path) -> None:
    """Leave a file that says that the worker takes jobs, for whoever started it."""
    path = data_dir / "run" / "worker.ready"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
