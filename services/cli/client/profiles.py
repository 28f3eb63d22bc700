"""Who is signed in on this machine: a file for each profile, which only its owner can read."""

import asyncio
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from services.cli.client.ending import EXIT_USAGE, Failed
from services.cli.client.options import FILE_PORT
from services.cli.file_lock import FileLock, LockHeldError

LOCK_SECONDS = 30.0
_LOOK_SECONDS = 0.05
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class SignedIn:
    """A session, as its client keeps it."""

    email: str
    auth_target: str
    agent_target: str
    access_token: str = field(repr=False)
    access_expires: float
    """When the access token expires, in seconds since the epoch."""
    refresh_token: str = field(repr=False)
    file_target: str = ""
    """Empty if it was not known at login, or not kept yet."""

    def target_of(self, service: str) -> str:
        """Where a service is. Raises Failed if that is not known."""
        known = {"agent": self.agent_target, "file": self.file_target or beside(self.auth_target, FILE_PORT)}[service]
        if not known:
            raise Failed(f"where {service} is is not known: give --target", code=EXIT_USAGE)
        return known


class Profile:
    """One place for a session: `<name>.json` in a folder of mode 700."""

    def __init__(self, folder: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise Failed("a profile's name has 1 to 64 letters, digits, _ and -", code=EXIT_USAGE)
        self.name = name
        self._path = folder / f"{name}.json"

    def read(self) -> SignedIn | None:
        """The session; None if nobody is signed in."""
        try:
            return SignedIn(**json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Failed(f"{self._path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise Failed(f"{self._path} holds no session: remove it, and run `parley login`") from error

    def write(self, session: SignedIn) -> None:
        """Keep a session. Whoever reads meanwhile gets the one before or this one, and a crash leaves one of them."""
        descriptor, name = tempfile.mkstemp(prefix=f"{self._path.name}.", dir=self._folder())  # of mode 600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(session), file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink()
            raise

    def remove(self) -> None:
        """Keep no session any more."""
        self._path.unlink(missing_ok=True)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """No two blocks of one profile at a time, in all processes of this machine."""
        lock = FileLock(self._folder() / f"{self.name}.lock")
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                while not _taken(lock):  # noqa: ASYNC110  # a lock of the kernel's is no event
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            raise Failed(f"another command has been at the profile {self.name} for {LOCK_SECONDS:.0f} s") from None
        try:
            yield
        finally:
            lock.release()

    def _folder(self) -> Path:
        folder = self._path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Failed(f"{folder} cannot be a folder: {error.strerror}") from error
        return folder


def beside(target: str, port: int) -> str:
    """The address of a port on the host of another address; empty if that one is not HOST:PORT."""
    host = re.fullmatch(r"(.+):\d+", target)
    return f"{host[1]}:{port}" if host else ""


def config_folder(environment: Mapping[str, str]) -> Path:
    """Where this user's configuration is, by the XDG Base Directory Specification: a relative path does not count."""
    configured = Path(environment.get("XDG_CONFIG_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".config") / "parley"


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except LockHeldError:
        return False
    return True
