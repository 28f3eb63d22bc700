"""`parley up`: the whole suite on one machine, in one terminal."""

import asyncio
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.cli.file_lock import FileLock, LockHeldError
from services.cli.log_output import Output
from services.cli.postgres_cluster import Cluster
from services.cli.postgres_host import PostgresError
from services.cli.processes import ProcessSpec
from services.cli.readiness import file_exists, serving
from services.cli.supervisor import Ended, Supervisor
from services.kit.roles import role_name
from services.kit.schema import has_schema
from services.kit.settings import EXIT_BAD_SETTINGS, SettingUnusable

EXIT_FAILED = 1
EXIT_KILLED = 128 + signal.SIGINT
SERVICES = ("auth", "agent", "file", "chat")
WORKER = "worker"

_PARLEY = (sys.executable, "-m", "services.cli")
_SERVICE_GRACE = 3.3
"""Seconds for the services; with those of PostgreSQL less than the 5 s in which everything has ended."""
_DRAIN = "1.5"
"""Seconds of this that calls in flight get, unless the operator says otherwise."""


@dataclass(frozen=True, kw_only=True)
class UpSettings:
    """What `parley up` needs to know; everything else the processes read from the environment themselves."""

    data_dir: Path
    listen_host: str
    ports: Mapping[str, int]
    """By service: auth, agent, file, chat."""
    database_url: str | None
    """None: the embedded PostgreSQL."""
    database_roles: bool
    log_as_json: bool = False


class CannotStart(Exception):
    """The suite cannot be started here; the message says why and what to do."""


def up(settings: UpSettings) -> int:
    """Run the suite until it is asked to stop (exit code 0) or cannot go on (1, or the code of what failed).

    One at a time in a data folder. Nothing is left running when it returns, nor when it is killed.
    """
    started = time.monotonic()
    names = ["migrate", *SERVICES, WORKER, *([] if settings.database_url else ["postgres"])]
    output = Output(names, as_json=settings.log_as_json)
    lock = None
    try:
        make_data_folder(settings.data_dir)
        lock = take_data_folder(settings.data_dir)
        check_ports(settings.listen_host, settings.ports)
        cluster = None if settings.database_url else Cluster.open(settings.data_dir, report=output.say)
        try:
            return asyncio.run(_supervise(settings, cluster, output, started))
        finally:
            if cluster is not None:
                cluster.close()
    except SettingUnusable as unusable:
        output.say(f"parley: {unusable}")
        return EXIT_BAD_SETTINGS
    except (CannotStart, PostgresError, OSError) as problem:
        output.say(f"parley: {problem}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_KILLED
    finally:
        if lock is not None:
            lock.release()
        output.close()


def make_data_folder(data_dir: Path) -> None:
    """Make the folder if it is not there, for nobody else to enter.

    Raises:
        SettingUnusable: it cannot be made.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingUnusable(f"PARLEY_DATA_DIR={data_dir} cannot be a folder: {error.strerror}") from None


def take_data_folder(data_dir: Path) -> FileLock:
    """Make sure that no other suite uses the folder.

    Raises:
        CannotStart: one does.
    """
    lock = FileLock(data_dir / "up.lock")
    try:
        lock.acquire()
    except LockHeldError as held:
        pid = f" (pid {held.pid})" if held.pid else ""
        raise CannotStart(
            f"Parley is already running here{pid}, with its data in {data_dir}. Stop it with Ctrl-C there"
            + (f" or `kill {held.pid}`" if held.pid else "")
            + "; for a second one set PARLEY_DATA_DIR and the ports."
        ) from None
    return lock


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Make sure that every service will be able to listen.

    Raises:
        CannotStart: somebody listens on the port.
        SettingUnusable: the host is not one to listen on, or two services have one port.
    """
    seen: dict[int, str] = {}
    for name, port in ports.items():
        setting = f"PARLEY_{name.upper()}_PORT"
        if port and port in seen:
            raise SettingUnusable(f"{setting} and {seen[port]} are both {port}: each service needs its own")
        seen[port] = setting
        try:
            _try_to_listen(host, port)
        except socket.gaierror as error:
            raise SettingUnusable(f"PARLEY_LISTEN_HOST={host} is not an address: {error.strerror}") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotStart(
                    f"port {port} for {name} is taken: end the program that has it, or set {setting} to another"
                ) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise SettingUnusable(f"PARLEY_LISTEN_HOST={host} is not an address of this machine") from None
            raise CannotStart(f"cannot listen on port {port} ({setting}): {error.strerror}") from None


def _try_to_listen(host: str, port: int) -> None:
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ended connections do not count
            probe.bind(address)


async def _supervise(settings: UpSettings, cluster: Cluster | None, output: Output, started: float) -> int:
    environment = suite_environment(settings, output.colour)
    database_url = cluster.url if cluster else settings.database_url or ""
    roles = [role_name(name) for name in (*SERVICES, WORKER)] if settings.database_roles else []
    database_urls = {
        name: cluster.url_as(role_name(name)) if cluster and roles else database_url for name in (*SERVICES, WORKER)
    }
    async with Supervisor(output) as supervisor:
        try:
            if cluster is not None:
                await supervisor.start(cluster.spec)
            # Asked first, as the start of a process that finds nothing to do takes a second.
            if not await asyncio.to_thread(has_schema, database_url, roles):
                migrating = environment | {"PARLEY_DATABASE_URL": database_url}
                await supervisor.run(ProcessSpec(name="migrate", argv=(*_PARLEY, "migrate"), env=migrating))
            await supervisor.start(*suite(settings, environment, database_urls))
            output.say(welcome(settings, time.monotonic() - started))
            exit_code = await supervisor.wait()
        except Ended as ended:
            exit_code = ended.exit_code
    if supervisor.killed:
        return EXIT_KILLED
    output.say("stopped")
    return exit_code


def suite_environment(settings: UpSettings, colour: bool) -> dict[str, str]:
    """The environment of every process of the suite, but for where its database is."""
    return {
        "PARLEY_DRAIN_SECONDS": _DRAIN,
        **({"FORCE_COLOR": "1"} if colour else {}),
        **os.environ,
        "PARLEY_DATA_DIR": str(settings.data_dir.resolve()),
        "PARLEY_LISTEN_HOST": settings.listen_host,
        **{f"PARLEY_{name.upper()}_PORT": str(port) for name, port in settings.ports.items()},
        "PYTHONUNBUFFERED": "1",
    }


def suite(settings: UpSettings, environment: Mapping[str, str], database_urls: Mapping[str, str]) -> list[ProcessSpec]:
    """The four services and the worker, each with the URL of the database under its name."""
    run = settings.data_dir.resolve() / "run"
    run.mkdir(mode=0o700, exist_ok=True)
    worker_ready = run / "worker.ready"
    environments = {name: {**environment, "PARLEY_DATABASE_URL": url} for name, url in database_urls.items()}
    return [
        *(
            ProcessSpec(
                name=name,
                argv=(*_PARLEY, "serve", name),
                env=environments[name],
                ready=serving(_reachable(settings.listen_host), settings.ports[name]),
                grace=_SERVICE_GRACE,
            )
            for name in SERVICES
        ),
        ProcessSpec(
            name=WORKER,
            argv=(*_PARLEY, "worker"),
            env=environments[WORKER],
            prepare=partial(worker_ready.unlink, missing_ok=True),
            ready=file_exists(worker_ready),
            grace=_SERVICE_GRACE,
        ),
    ]


def _reachable(host: str) -> str:
    """An address at which something that listens on `host` is reached from this machine."""
    host = host.strip("[]")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - it is replaced here


def welcome(settings: UpSettings, seconds: float) -> str:
    """What is where, and what to try next."""
    host = _reachable(settings.listen_host)
    host = f"[{host}]" if ":" in host else host
    auth = f"{host}:{settings.ports['auth']}"
    buf = Path(sys.executable).with_name("buf")
    if buf.is_relative_to(Path.cwd()):
        buf = buf.relative_to(Path.cwd())
    jwks = f"http://{auth}/parley.auth.v1.AuthService/GetJwks"
    account = '{"email": "ann@example.com", "password": "correct horse battery staple", "full_name": "Ann"}'
    lines = [
        "",
        f"Parley is ready after {seconds:.1f} s. Ctrl-C stops it; the data stay in {settings.data_dir}.",
        "",
        *(f"  {name:<6} {host}:{settings.ports[name]}" for name in SERVICES),
        "",
        "Try, in another terminal:",
        "",
        "  make demo",
        f"  grpcurl -plaintext {auth} list",
        f"  grpcurl -plaintext -d '{account}' {auth} parley.auth.v1.AuthService/Register",
        f"  {buf} curl --protocol grpc --http2-prior-knowledge -d '{{}}' {jwks}",
        "",
    ]
    return "\n".join(lines)
