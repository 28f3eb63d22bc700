"""The data of the embedded PostgreSQL: created once, held by one process at a time, ready to be served.

The server listens on a Unix socket only, no port. Whoever can reach the socket is trusted without a password:
the socket lies in a folder of mode 700 that belongs to the user who runs the server, so that is this user and
root, who could both read the data without any server. Nothing secret has to be stored for it. For the same
reason whoever connects chooses the role to be: that keeps a service to its own, not somebody who runs programs here.
"""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil

from services.cli.file_lock import FileLock, LockHeldError
from services.cli.postgres_host import PostgresError, choose_account, find_program_files, make_socket_folder
from services.cli.processes import Account, ProcessSpec, end, spawn

DATABASE = "parley"
PORT = 5432  # only part of the socket's name

_SERVER_OPTIONS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "cluster_name": "parley",  # so that `ps` shows whose server it is
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # The text of an error can hold what a user typed. Services log their own errors, without it.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class Cluster:
    """Data in `<data_dir>/postgres`, held by this process, and how to run a server on them."""

    def __init__(self, spec: ProcessSpec, sockets: Path, lock: FileLock) -> None:
        self.spec = spec
        self._sockets = sockets
        self._lock = lock

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        options: Mapping[str, str] | None = None,
        report: Callable[[str], None] = print,
    ) -> Self:
        """Take hold of the data and create them if there are none; no server is started yet.

        Creation is atomic: interrupted at any moment, the next call begins anew. `options` are settings of
        the server beside Parley's own. `report` gets a line about whatever takes longer than a moment.

        Raises:
            PostgresError: another process serves these data, or the machine lacks something that the message
            names.
        """
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = data_dir.resolve() / "postgres"
        lock = FileLock(data_dir / "postgres.lock")
        try:
            lock.acquire()
        except LockHeldError as held:
            raise PostgresError(f"{data} is in use by pid {held.pid}") from None
        except PermissionError as error:
            raise PostgresError(f"{data_dir} cannot be used by this user: {error}") from None
        try:
            account = choose_account(data, report)
            files = find_program_files(account)
            if not (data / "PG_VERSION").exists():
                _create(data, files, account, report)
            _take_ownership(data, account)
            sockets = make_socket_folder(data, account)
            spec = _server(data, sockets, files, account, {**_SERVER_OPTIONS, **(options or {})}, report)
            return cls(spec, sockets, lock)
        except BaseException:
            lock.release()
            raise

    @property
    def url(self) -> str:
        """For psycopg, as the owner; for SQLAlchemy, `postgresql` becomes `postgresql+psycopg`."""
        return self.url_as(DATABASE)

    def url_as(self, role: str) -> str:
        """The same for another role."""
        return f"postgresql://{role}@/{DATABASE}?host={quote(str(self._sockets), safe='')}&port={PORT}"

    def close(self) -> None:
        """Let other processes use the data; the server must have been stopped."""
        with suppress(OSError):  # not empty: a server that was killed has left its socket to the next start
            self._sockets.rmdir()
        self._lock.release()


def is_ready(data: Path) -> bool:
    """True when the server on `data` takes connections: it says so in the last line of postmaster.pid."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _server(
    data: Path,
    sockets: Path,
    files: Path,
    account: Account | None,
    options: Mapping[str, str],
    report: Callable[[str], None],
) -> ProcessSpec:
    def prepare() -> None:
        _end_previous_servers(data, report)
        # Nobody serves these data now, whoever may have got the pid in these files since. PostgreSQL itself
        # would refuse to start while a process with that pid lives.
        for stale in (data / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    async def ready() -> bool:
        return is_ready(data)

    return ProcessSpec(
        name="postgres",
        argv=[
            str(files / "bin" / "postgres"),
            *_options({**options, "unix_socket_directories": f'"{sockets}"'}),
            *("-D", _seen_from_inside(data, account)),
        ],
        env=_environment(),
        cwd=data,
        account=account,
        prepare=prepare,
        ready=ready,
        stop_signal=signal.SIGINT,  # "fast": sessions end, everything is written
        grace=1.3,
        kill_signal=signal.SIGQUIT,  # "immediate": the log is replayed by the next start; nothing is lost
        death_signal=signal.SIGINT,
    )


def _seen_from_inside(data: Path, account: Account | None) -> str:
    """The path of the data folder for a process whose working folder it is.

    Another user may be unable to enter the folders above. Through this link of the kernel it needs not: they
    stay as closed as they are.
    """
    if account is None:
        return str(data)
    if not Path("/proc/self/cwd").exists():
        raise PostgresError("on this system run Parley as an ordinary user, or set PARLEY_DATABASE_URL")
    return "/proc/self/cwd"


def _options(options: Mapping[str, str]) -> list[str]:
    return [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]


def _environment() -> dict[str, str]:
    """This process's environment without what would change the server, such as PGPORT or PGOPTIONS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return {**kept, "LC_ALL": "C"}


def _create(data: Path, files: Path, account: Account | None, report: Callable[[str], None]) -> None:
    report("creating the database (once) ...")
    unfinished = data.with_name("postgres.unfinished")
    if unfinished.exists():
        _end_previous_servers(unfinished, report)
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    if account is not None:
        os.chown(unfinished, account.uid, account.gid)
    where = _seen_from_inside(unfinished, account)
    initdb = [str(files / "bin" / "initdb"), "-D", where, "--username", DATABASE, "--encoding", "UTF8"]
    initdb += ["--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
    initdb += ["--data-checksums", "--auth-local", "trust", "--auth-host", "reject", "--no-instructions"]
    _run(initdb, unfinished, account)
    single = [str(files / "bin" / "postgres"), "--single", *_options({"exit_on_error": "on"})]
    _run([*single, "-D", where, "postgres"], unfinished, account, statement=f"CREATE DATABASE {DATABASE}")
    try:
        unfinished.rename(data)
    except OSError as error:
        raise PostgresError(f"{data} holds something else than a database: {error.strerror}") from None
    parent = os.open(data.parent, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)


def _run(argv: Sequence[str], cwd: Path, account: Account | None, statement: str = "") -> None:
    spec = ProcessSpec(name=Path(argv[0]).name, argv=argv, env=_environment(), cwd=cwd, account=account)
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as stdin:
        stdin.write(f"{statement}\n".encode())
        stdin.seek(0)
        process = spawn(spec, output=output.fileno(), stdin=stdin.fileno())
        try:
            code = process.wait()
        finally:
            end(process, spec)
        if code != 0:
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
            raise PostgresError(f"{spec.name} failed with exit code {code}:\n{said}")


def _take_ownership(data: Path, account: Account | None) -> None:
    """Undo what copying the folder as root, or without its modes, does to it: PostgreSQL would refuse it."""
    data.chmod(0o700)
    if account is not None and data.stat().st_uid != account.uid:
        for path in (data, *data.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _end_previous_servers(data: Path, report: Callable[[str], None]) -> None:
    """Wait until no server works on `data`.

    The lock is ours, so whatever is found has lost its parent and is about to end by itself. One that has not
    after 5 s is asked to, after 10 s told to: data that are committed survive both.
    """
    if _gone(data, within=0.3):
        return
    report("waiting for the previous PostgreSQL to end ...")
    for seconds, sign in ((5.0, signal.SIGINT), (5.0, signal.SIGQUIT), (10.0, signal.SIGKILL)):
        if _gone(data, within=seconds):
            return
        servers = _servers_on(data)
        pids = {server.pid for server in servers}
        for server in servers:
            with suppress(psutil.NoSuchProcess):
                # The first process ends its own children, in the right order.
                if sign is signal.SIGKILL or server.ppid() not in pids:
                    server.send_signal(sign)
    if not _gone(data, within=5.0):
        raise PostgresError(f"a previous PostgreSQL still works on {data} and does not end")


def _gone(data: Path, within: float) -> bool:
    deadline = time.monotonic() + within
    while _servers_on(data):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _servers_on(data: Path) -> list[psutil.Process]:
    """The processes of PostgreSQL whose working folder is `data`, as it is for every process of a server."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] in {"postgres", "initdb"} and Path(process.cwd()).samefile(data):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or belongs to somebody who has nothing to do here
    return found
