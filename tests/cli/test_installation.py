"""Finding the database that runs in a data folder."""

from pathlib import Path

import psycopg

from services.cli.embedded_postgres import EmbeddedPostgres
from services.cli.installation import running_database_url


def test_the_database_of_a_folder_is_found_while_it_runs(tmp_path: Path) -> None:
    assert running_database_url(tmp_path) is None
    with EmbeddedPostgres.start(tmp_path, report=lambda _: None):
        url = running_database_url(tmp_path)
        assert url is not None
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert running_database_url(tmp_path) is None


def test_a_database_that_was_killed_is_not_taken_for_a_running_one(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    lines = [str(2**22 + 1), "/data", "0", "5432", "/tmp/sockets", "", "0 0", "ready"]
    (tmp_path / "postgres" / "postmaster.pid").write_text("\n".join(lines))
    assert running_database_url(tmp_path) is None
