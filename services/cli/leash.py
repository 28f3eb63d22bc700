"""Run a command that ends when the process which started it ends, also when that one is killed with SIGKILL.

    python -I -S leash.py DEATH_SIGNAL PARENT_PID UID:GID|- COMMAND [ARGUMENT...]

The command replaces this process, so it keeps its pid. This is a program of its own, and no `preexec_fn`,
because code between fork and exec can deadlock in a process with threads, and because a change of user clears
the kernel's leash: it must be put on after it. Only the standard library is imported: it starts in 15 ms.
"""

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; prctl(2)."""

GONE = 143
"""The exit code when the parent was gone before the command could start."""


def tie(parent: int, death_signal: int) -> None:
    """Have the kernel send `death_signal` to this process, whatever it becomes, when `parent` ends.

    The kernel counts the thread which forked as the parent: whoever starts a leash must do so from a thread
    that lives as long as the process.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(GONE)  # it ended before the leash was on


def watch(parent: int, death_signal: int, interval: float = 0.2) -> None:
    """The same where the kernel has no leash: a watcher of its own looks every `interval` seconds.

    It sees the parent's end when the parent has been waited for. It keeps the rights of this moment, so call this
    before giving them up.
    """
    command = os.getpid()
    middle = os.fork()
    if middle != 0:
        os.waitpid(middle, 0)
        return
    if os.fork() != 0:
        os._exit(0)  # the watcher must not be a child that the command does not know
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)  # whoever reads the command's output must see its end
    while _lives(command):
        if not _lives(parent):
            os.kill(command, death_signal)
            break
        time.sleep(interval)
    os._exit(0)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main(arguments: list[str]) -> None:
    """Put on the leash, become the wanted user, become the command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a stop in the first milliseconds is no error to trace
    death_signal, parent, account = int(arguments[0]), int(arguments[1]), arguments[2]
    command = arguments[3:]
    kernel_leash = sys.platform == "linux"
    if not kernel_leash:
        watch(parent, death_signal)
    if account != "-":
        uid, gid = account.split(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if kernel_leash:
        tie(parent, death_signal)
    # Python ignores SIGPIPE and SIGXFSZ, and an ignored signal stays ignored in the next program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execv(command[0], command)  # noqa: S606 - becoming the command without a shell is the purpose
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
