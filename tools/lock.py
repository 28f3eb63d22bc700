"""Compile the locks from pyproject.toml: `make lock`.

They hold versions and hashes for every platform and for Python 3.11 and newer, and no address: where packages
come from is the business of the machine that installs.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILE = (
    *("uv", "--quiet", "--no-progress", "pip", "compile", "pyproject.toml"),
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--all-extras"),
    *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--no-emit-package", "parley-protos"),
)


def main(arguments: list[str]) -> int:
    """Compile what a server needs, with all extras, then what its developers need on top, with the same versions."""
    for options in (
        ("--output-file", "requirements.lock"),
        ("--group", "dev", "--constraint", "requirements.lock", "--output-file", "requirements-dev.lock"),
    ):
        uv = Path(sys.executable).with_name(COMPILE[0])
        done = subprocess.run([uv, *COMPILE[1:], *options, *arguments], cwd=ROOT, check=False)
        if done.returncode != 0:
            return done.returncode
    for name in ("requirements.lock", "requirements-dev.lock"):
        if "://" in (ROOT / name).read_text():
            sys.exit(f"{name} holds an address: it must not")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
