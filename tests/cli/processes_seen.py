"""What tests of processes share: starting one, waiting for something to become true, seeing what still runs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
WITH_OUR_MODULES = {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]), "PYTHONDONTWRITEBYTECODE": "1"}
"""Environment with which a Python process imports what the tests import, and writes nothing into their folders."""


def eventually(true: Callable[[], bool], within: float = 10.0) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.01)


def gone(*pids: int) -> bool:
    """True when none of the processes runs; a zombie does not."""
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def python(*arguments: str, uid: int | None = None) -> subprocess.Popen[str]:
    """A Python program of this project in a session of its own, with pipes for stdin and its output."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        env={**os.environ, **WITH_OUR_MODULES},
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        start_new_session=True,
    )
