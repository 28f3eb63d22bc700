"""Child processes that are described by a value and never outlive the process that started them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True)
class Account:
    """The operating system user that a process runs as."""

    uid: int
    gid: int


async def at_once() -> bool:
    """The readiness of a process that is ready as soon as it runs."""
    return True


def nothing() -> None:
    """The preparation of a process that needs none."""


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """What to run, how one sees that it is ready, and how it is ended."""

    name: str
    argv: Sequence[str]
    """`argv[0]` is a path: PATH is not searched."""
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: Path | None = None
    account: Account | None = None
    """None: the user of this process. Only root can name another."""
    prepare: Callable[[], None] = nothing
    """Called before every start, restarts included."""
    ready: Callable[[], Awaitable[bool]] = at_once
    """Asked again and again until it says True."""
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 3.0
    """Seconds from `stop_signal` to `kill_signal`."""
    kill_signal: signal.Signals = signal.SIGKILL
    """Sent when the grace is over; what then still lives is killed with SIGKILL."""
    death_signal: signal.Signals = signal.SIGKILL
    """Sent by the kernel when the parent has ended without stopping the process."""


def spawn(spec: ProcessSpec, *, output: int, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start the process in a session of its own, with stdout and stderr to the file descriptor `output`.

    In its own session it does not get the Ctrl-C of the terminal: the parent decides the order in which
    things end.

    Raises:
        RuntimeError: not called from the main thread. The kernel ends the child with the thread that started
        it.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"{spec.name} must be started from the main thread, with which it ends")
    account = f"{spec.account.uid}:{spec.account.gid}" if spec.account else "-"
    leash = [sys.executable, "-I", "-S", str(_LEASH), str(int(spec.death_signal)), str(os.getpid()), account]
    return subprocess.Popen(
        [*leash, *spec.argv],
        env=dict(spec.env),
        cwd=spec.cwd,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes], spec: ProcessSpec) -> int:
    """Stop the process as its spec says, wait for it, and return its exit code."""
    for sign, seconds in ((spec.stop_signal, spec.grace), (spec.kill_signal, 0.5)):
        if process.poll() is None:
            process.send_signal(sign)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        break
    kill_group(process)
    return process.wait()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the session: the process, if it lives, and its children that did not end with it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # none left; macOS says the latter of a group of zombies
        if process.poll() is None:
            process.kill()
