"""The installation that an operator works on: the database that is set, or the one that runs in the data folder."""

import sys
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import psutil
from pydantic import SecretStr

from services.cli.postgres_cluster import DATABASE, is_ready
from services.cli.settings import SuiteSettings
from services.kit.settings import EXIT_BAD_SETTINGS, DatabaseSettings, load

S = TypeVar("S", bound=DatabaseSettings)


def running_database_url(data_dir: Path) -> str | None:
    """The URL of the embedded PostgreSQL that serves the data in this folder; None when none does."""
    data = data_dir / "postgres"
    if not is_ready(data):
        return None
    # The pid, the data folder, the start, the port, the folder of the socket (storage-file-layout in the manual).
    pid, _, _, port, sockets, *_ = (data / "postmaster.pid").read_text().splitlines()
    if not psutil.pid_exists(int(pid)):
        return None  # It was killed: the file is of its last life.
    return f"postgresql://{DATABASE}@/{DATABASE}?host={quote(sockets, safe='')}&port={port}"


def load_operator_settings(kind: type[S]) -> S:
    """The settings of a command that works on the database beside the running services, as `settings.load` reads them.

    Without PARLEY_DATABASE_URL it is the embedded database of `parley up` with the same PARLEY_DATA_DIR. If none runs:
    one line on stderr and exit 2.
    """
    suite = load(SuiteSettings)
    if suite.database_url is not None:
        return load(kind)
    url = running_database_url(suite.data_dir)
    if url is None:
        sys.stderr.write(
            f"parley: PARLEY_DATABASE_URL is not set, and no `parley up` runs with its data in {suite.data_dir}\n"
        )
        raise SystemExit(EXIT_BAD_SETTINGS)
    return kind(database_url=SecretStr(url))
