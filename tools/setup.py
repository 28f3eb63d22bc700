"""Bring `.venv` up to date with the locks: `make setup`, and what every other target does first.

Uses the standard library only and is run by the machine's own python, which may be too old for everything
else here: this file must therefore parse, and say so, on any Python 3.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - an older python is the very case that this line is for
    found = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"Parley needs Python 3.11 or newer, and this is {found}: make PYTHON=/path/to/python3.11 ...")

import fcntl
import hashlib
import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"
LOCK = ROOT / "requirements-dev.lock"
PROJECTS = (ROOT / "gen", ROOT)


def main() -> int:
    """Install what the locks say, unless that has been done already. The exit code is the failed step's."""
    wanted = fingerprint()
    if is_installed(wanted):
        return 0
    with only_one_at_a_time():
        if is_installed(wanted):
            return 0
        try:
            install()
        except subprocess.CalledProcessError as error:
            print(f"setup failed: {' '.join(error.cmd)}", file=sys.stderr)
            return error.returncode or 1
        except KeyboardInterrupt:
            return 130
        STAMP.write_text(wanted)
    return 0


def fingerprint() -> str:
    """A digest of everything that decides what is installed, the place and the interpreter included."""
    digest = hashlib.sha256(f"{ROOT} {sys.version_info[:2]}".encode())
    digest.update(LOCK.read_bytes())
    for project in PROJECTS:
        tables = tomllib.loads((project / "pyproject.toml").read_text())
        installed = [tables["build-system"], tables["project"], tables["tool"]["hatch"]]
        digest.update(json.dumps(installed, sort_keys=True).encode())
    return digest.hexdigest()


def is_installed(wanted: str) -> bool:
    """True when the last installation that was completed is the wanted one."""
    return STAMP.is_file() and STAMP.read_text() == wanted and (VENV / "bin" / "python").exists()


@contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Let several `make` in one tree wait for the first instead of installing over each other."""
    with (ROOT / "tools" / "setup.py").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install() -> None:
    """Create the environment; install the locked packages by their hashes, then this project and no other."""
    print("Setting up .venv (once, and again when the locks change) ...", flush=True)
    STAMP.unlink(missing_ok=True)
    if not works():
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    python = str(VENV / "bin" / "python")
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps")
    run(*pip, "--require-hashes", "--requirement", str(LOCK))
    run(*pip, "--no-build-isolation", *(f"--editable={project}" for project in PROJECTS))


def works() -> bool:
    """True when there is an environment that this python made here: it may have been moved, or be older."""
    try:
        version = subprocess.check_output(
            [VENV / "bin" / "python", "-m", "pip", "--version"], text=True, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return str(VENV) in version and "(python {}.{})".format(*sys.version_info[:2]) in version


def run(*command: str) -> None:
    """Run one step in the project's root; as root too, without pip's advice against it."""
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})


if __name__ == "__main__":
    sys.exit(main())
