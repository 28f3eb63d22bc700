"""The `parley` command as somebody runs it, with pipes or in a terminal; and the services that it calls."""

import asyncio
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from tests.auth import suite
from tests.auth.people import EMAIL, PASSWORD, register

DEADLINE = 30.0
COMMAND = (sys.executable, "-m", "services.cli")
# In a program of its own: code that runs in a fork of this process, between its threads of gRPC, may crash.
TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass
class Ended:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str


class Running:
    """A command that runs without a terminal."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line on its stderr."""
        assert self.process.stderr
        async with asyncio.timeout(DEADLINE):
            return (await self.process.stderr.readline()).decode()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    async def ended(self, stdin: str = "") -> Ended:
        async with asyncio.timeout(DEADLINE):
            stdout, stderr = await self.process.communicate(stdin.encode())
        assert self.process.returncode is not None
        return Ended(self.process.returncode, stdout.decode(), stderr.decode())


class Terminal:
    """A command that runs in a terminal."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.process = process
        self.said = ""
        self._master = master

    async def until(self, text: str) -> None:
        """Wait until the terminal shows a text."""
        async with asyncio.timeout(DEADLINE):
            while text not in self.said:
                self.said += (await asyncio.to_thread(os.read, self._master, 65536)).decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def ended(self) -> int:
        async with asyncio.timeout(DEADLINE):
            try:
                while data := await asyncio.to_thread(os.read, self._master, 65536):
                    self.said += data.decode(errors="replace")
            except OSError:
                pass  # So a terminal says that the last process that had it is gone.
            return await self.process.wait()


class Parley:
    """Somebody's machine, with a configuration of its own."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "parley"
        self.current_folder: Path | None = None
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
        self._environment = inherited | {"XDG_CONFIG_HOME": str(home), "TERM": "xterm", "COLUMNS": "200"}

    async def begin(self, *arguments: str, **environment: str) -> Running:
        return Running(
            await asyncio.create_subprocess_exec(
                *(*COMMAND, *arguments),
                env=self._environment | environment,
                cwd=self.current_folder,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        )

    async def run(self, *arguments: str, stdin: str = "", **environment: str) -> Ended:
        return await (await self.begin(*arguments, **environment)).ended(stdin)

    @asynccontextmanager
    async def terminal(self, *arguments: str, **environment: str) -> AsyncIterator[Terminal]:
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TAKE_TERMINAL, *COMMAND, *arguments),
            env=self._environment | environment,
            cwd=self.current_folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        try:
            yield Terminal(process, master)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(master)

    async def login(self, auth: str, agent: str, *more: str, email: str = EMAIL) -> None:
        targets = ("--target", auth, "--agent-target", agent)
        ended = await self.run("login", "--email", email, "--password-stdin", *targets, *more, stdin=f"{PASSWORD}\n")
        assert ended == Ended(0, f"signed in as {email}\n", "")


@dataclass(frozen=True)
class Services:
    """Auth and agent, and a user who is registered."""

    auth: suite.Server
    agent: suite.Server

    @property
    def auth_stub(self) -> AuthServiceStub:
        return AuthServiceStub(self.auth.channel)

    @property
    def agent_stub(self) -> AgentServiceStub:
        return AgentServiceStub(self.agent.channel)


@asynccontextmanager
async def running_services(settings: Callable[..., Any], **changed: Any) -> AsyncIterator[Services]:
    async with AsyncExitStack() as stack:
        auth = await suite.start(stack, open_auth, settings(AuthSettings))
        agent = await suite.start(stack, open_agent, settings(AgentSettings, auth_target=auth.address, **changed))
        await register(AuthServiceStub(auth.channel))
        yield Services(auth, agent)
