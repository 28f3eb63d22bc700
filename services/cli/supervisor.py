"""Keeps processes running in the order they need each other, and ends them in the reverse order.

    async with Supervisor(output) as supervisor:
        await supervisor.start(database)
        await supervisor.start(auth, chat)
        await supervisor.wait()

It knows nothing about what the processes are: `ProcessSpec` says how each is started, seen to be ready, and ended.
"""

import asyncio
import signal
import time
from types import TracebackType
from typing import Self

from services.cli.child import Child
from services.cli.log_output import Output
from services.cli.processes import ProcessSpec

EXIT_BAD_SETTINGS = 2
_STARTS_BEFORE_GIVING_UP = 3
_QUICK_DEATH = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_POLL = 0.02
_SAY_WHO_IS_LATE = 10.0
_SAME_REQUEST = 0.3
"""make(1) and timeout(1) pass on a signal that the whole process group has got already."""


class Ended(Exception):
    """The supervision is over: somebody asked for it (exit code 0), or a process cannot be kept running."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Supervisor:
    """Runs processes until SIGINT, SIGTERM or SIGHUP, and restarts those that end by themselves.

    A process that ends without ever having been ready is started three times in all; one that says that its
    settings are wrong (exit code 2) once. Then everything is stopped, and `Ended` has its exit code. A
    process that has been ready is restarted for ever, after a pause that grows to 5 s while it keeps ending
    within 30 s.

    On leaving, everything is ended: what was started last first, what was started together at the same time.
    A second SIGINT kills at once.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._groups: list[list[_Kept]] = []
        self._children: set[Child] = set()
        self._hurry = asyncio.Event()
        self._asked_at = 0.0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[int] = loop.create_future()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if sign == signal.SIGHUP and signal.getsignal(sign) == signal.SIG_IGN:
                continue  # nohup(1) asks to outlive the terminal
            loop.add_signal_handler(sign, self._asked_to_stop, sign)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over.done():
            self._over.set_result(1)
        for group in reversed(self._groups):
            await asyncio.gather(*(kept.stop() for kept in group))
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            loop.remove_signal_handler(sign)

    @property
    def killed(self) -> bool:
        """True when a second signal has cut the stopping short."""
        return self._hurry.is_set()

    async def start(self, *specs: ProcessSpec) -> None:
        """Start the processes together, and return when all are ready.

        Raises:
            Ended: it will not come to that.
        """
        group = [_Kept(self, spec) for spec in specs]
        self._groups.append(group)
        for kept in group:
            kept.start()
        while late := [kept for kept in group if not kept.ready.is_set()]:
            waits = [asyncio.ensure_future(late[0].ready.wait()), asyncio.ensure_future(self.wait())]
            done, _ = await asyncio.wait(waits, timeout=_SAY_WHO_IS_LATE, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if self._over.done():
                raise Ended(self._over.result())
            if not done:
                self._output.say(f"still waiting for: {', '.join(kept.spec.name for kept in late)}")

    async def run(self, spec: ProcessSpec) -> None:
        """Run a process to its end.

        Raises:
            Ended: with its exit code, if that is not 0; or the supervision was over first.
        """
        child = self.launch(spec)
        end = asyncio.ensure_future(child.wait())
        try:
            await asyncio.wait({end, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if end.done() and end.result() != 0:
                self.give_up(f"{spec.name} {describe_exit(end.result())}", end.result())
        finally:
            end.cancel()
            if child.running:
                await child.stop(self._hurry)
        if self._over.done():
            raise Ended(self._over.result())

    async def wait(self) -> int:
        """Return the exit code when the supervision is over."""
        return await asyncio.shield(self._over)

    def launch(self, spec: ProcessSpec) -> Child:
        """Start a process that is ended with the others, whatever becomes of it until then."""
        spec.prepare()
        child = Child(spec, self._output)
        self._children.add(child)
        return child

    def say(self, text: str) -> None:
        """Tell the operator."""
        self._output.say(text)

    def give_up(self, reason: str, exit_code: int) -> None:
        """End everything because a process cannot be kept running."""
        if not self._over.done():
            self._output.say(f"parley: {reason}: stopping everything")
            self._over.set_result(exit_code if exit_code > 0 else 1)

    def is_over(self) -> bool:
        """True from the moment on that everything is being ended."""
        return self._over.done()

    @property
    def hurry(self) -> asyncio.Event:
        """Set when there is no time for a grace."""
        return self._hurry

    def _asked_to_stop(self, sign: signal.Signals) -> None:
        now = time.monotonic()
        if not self._over.done():
            self._output.say("stopping" + (" (Ctrl-C kills at once) ..." if sign == signal.SIGINT else " ..."))
            self._over.set_result(0)
        elif sign == signal.SIGINT and now - self._asked_at > _SAME_REQUEST:
            self._hurry.set()
        self._asked_at = now

    def _reap(self) -> None:
        for child in list(self._children):
            child.reap()
            if not child.running:
                self._children.discard(child)


class _Kept:
    """A process that is started again when it ends."""

    def __init__(self, supervisor: Supervisor, spec: ProcessSpec) -> None:
        self.spec = spec
        self.ready = asyncio.Event()
        self._supervisor = supervisor
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=self.spec.name)
        self._task.add_done_callback(self._no_longer_kept)

    def _no_longer_kept(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._supervisor.give_up(f"{self.spec.name}: {error}", 1)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._child is not None and self._child.running:
            await self._child.stop(self._supervisor.hurry)

    async def _keep(self) -> None:
        name, failures, pause = self.spec.name, 0, _FIRST_PAUSE
        while not self._supervisor.is_over():
            started = time.monotonic()
            self._child = self._supervisor.launch(self.spec)
            code = await self._until_it_ends(self._child)
            if self._supervisor.is_over():
                return
            what = f"{name} {describe_exit(code)}"
            if not self.ready.is_set():
                failures += 1
                if code == EXIT_BAD_SETTINGS or failures == _STARTS_BEFORE_GIVING_UP:
                    self._supervisor.give_up(f"{what} before it was ready", code)
                    return
            if time.monotonic() - started > _QUICK_DEATH:
                pause = _FIRST_PAUSE
            self._supervisor.say(f"parley: {what}: starting it again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _until_it_ends(self, child: Child) -> int:
        watch = asyncio.create_task(self._watch_readiness())
        try:
            return await child.wait()
        finally:
            watch.cancel()
            await asyncio.wait({watch})

    async def _watch_readiness(self) -> None:
        again = self.ready.is_set()
        while not await self.spec.ready():  # noqa: ASYNC110 - another process has no event to wait for
            await asyncio.sleep(_POLL)
        self.ready.set()
        if again:
            self._supervisor.say(f"parley: {self.spec.name} is back")


def describe_exit(code: int) -> str:
    """What an exit code means, as a verb."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
