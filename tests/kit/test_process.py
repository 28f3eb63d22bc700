"""A process that serves: what else it computes leaves the event loop its turns."""

import subprocess
import sys

COMPUTING = """
import asyncio
import threading
import time

from services.kit.process import run_until_signal

TURNS = 60


async def body(stop):
    is_over = threading.Event()

    def compute():
        while not is_over.is_set():
            sum(range(1000))

    computing = threading.Thread(target=compute)
    computing.start()
    waits = []
    for _ in range(TURNS):
        started = time.perf_counter()
        await asyncio.sleep(0.001)
        waits.append(time.perf_counter() - started)
    is_over.set()
    computing.join()
    print(sorted(waits)[TURNS // 2])


run_until_signal(body)
"""

SERVING = """
import gc
from contextlib import asynccontextmanager

from services.auth.settings import AuthSettings
from services.kit import process

kept = [[] for _ in range(100_000)]


@asynccontextmanager
async def wiring(settings):
    yield None


async def serve(service, settings, *, port, stop):
    print(len(gc.get_objects()))


process.serve_until_stopped = serve
process.run_service("auth", AuthSettings, wiring)
"""


def test_a_thread_that_computes_in_python_does_not_hold_up_the_event_loop() -> None:
    command = [sys.executable, "-c", COMPUTING]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    medians = [float(subprocess.check_output(command, env=environment, timeout=30)) for _ in range(3)]
    assert min(medians) < 0.004  # it is 6 ms with Python's own interval


def test_full_collections_of_garbage_leave_alone_what_was_there_when_the_service_began() -> None:
    command = [sys.executable, "-c", SERVING]
    environment = {"PYTHONPATH": ":".join(sys.path), "PARLEY_DATABASE_URL": "postgresql://nowhere/parley"}
    assert int(subprocess.check_output(command, env=environment, timeout=30)) < 10_000
