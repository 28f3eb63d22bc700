"""A PostgreSQL that belongs to this process: it ends with it, and with it only.

    with EmbeddedPostgres.start(Path(".parley")) as postgres:
        psycopg.connect(postgres.url)

What is committed is kept, whatever is killed: fsync is on and the next start replays the log. See
`postgres_cluster` for where the data are and who can connect.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from services.cli.postgres_cluster import Cluster, is_ready
from services.cli.postgres_host import PostgresError
from services.cli.processes import end, spawn

__all__ = ["EmbeddedPostgres", "PostgresError"]


class EmbeddedPostgres:
    """A running server; made by `start`."""

    def __init__(self, cluster: Cluster, process: subprocess.Popen[bytes]) -> None:
        self._cluster = cluster
        self._process = process
        self.url = cluster.url
        """The database `parley`, for psycopg. It stays the same for the same data folder."""

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        options: Mapping[str, str] | None = None,
        report: Callable[[str], None] = print,
        deadline: float = 120.0,
    ) -> Self:
        """Serve the data in `<data_dir>/postgres`, created if there are none, and return when it can be used.

        Must be called from the main thread. The server's log is `<data_dir>/postgres.log`, of this start only.
        `options` are settings of the server beside Parley's own.

        Raises:
            PostgresError: another process serves these data, the server did not start within `deadline` seconds,
                or the machine lacks something that the message names.
        """
        cluster = Cluster.open(data_dir, options=options, report=report)
        log = data_dir / "postgres.log"
        try:
            cluster.spec.prepare()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            try:
                process = spawn(cluster.spec, output=output)
            finally:
                os.close(output)
            try:
                _wait_until_ready(process, data_dir / "postgres", log, deadline)
            except BaseException:
                end(process, cluster.spec)
                raise
        except BaseException:
            cluster.close()
            raise
        return cls(cluster, process)

    @property
    def pid(self) -> int:
        """The server's first process."""
        return self._process.pid

    def stop(self) -> None:
        """End all sessions, write everything, and return when the server is gone; harmless the second time."""
        if self._process.returncode is None:
            end(self._process, self._cluster.spec)
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _wait_until_ready(process: subprocess.Popen[bytes], data: Path, log: Path, deadline: float) -> None:
    give_up = time.monotonic() + deadline
    while not is_ready(data):
        said = f"it said in {log}:\n{log.read_text(errors='replace').strip()}"
        if process.poll() is not None:
            raise PostgresError(f"PostgreSQL ended with exit code {process.returncode}; {said}")
        if time.monotonic() > give_up:
            raise PostgresError(f"PostgreSQL is not ready after {deadline:g} s; {said}")
        time.sleep(0.005)
