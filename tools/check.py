"""Everything that can be said about the code without running it: `make check`.

All checks run, side by side; what failed is shown at the end. `make check ARGS="mypy ruff"` runs those only.
"""

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools import gen

ROOT = gen.ROOT
# A checkout may belong to another user than the one who checks it, such as root in a container.
GIT = ("git", "-c", f"safe.directory={ROOT}")
TYPED = ("services", "tests", "benchmarks", "tools")


class Failed(Exception):
    """The check has found something; the message is what the developer should read."""


class Skipped(Exception):
    """There is nothing to compare with; the message says why."""


@dataclass(frozen=True)
class Result:
    """How one check ended."""

    name: str
    outcome: str
    seconds: float
    details: str = ""


def main(wanted: list[str]) -> int:
    """Run the wanted checks, or all; 0 when none failed."""
    checks: dict[str, Callable[[], None]] = {
        "mypy": lambda: gen.run("mypy", "--no-error-summary", *(d for d in TYPED if any((ROOT / d).rglob("*.py")))),
        "breaking": check_breaking,
        "generated": check_generated,
        "imports": lambda: gen.run("lint-imports", "--no-logo"),
        "ruff": lambda: gen.run("ruff", "check", "--quiet", "--output-format=concise"),
        "format": lambda: gen.run("ruff", "format", "--check", "--output-format=concise"),
        "buf-lint": lambda: gen.run("buf", "lint", "protos"),
        "buf-format": lambda: gen.run("buf", "format", "--diff", "--exit-code", "protos"),
    }
    if unknown := set(wanted) - checks.keys():
        print(f"No such check: {', '.join(sorted(unknown))}. There are {', '.join(checks)}.", file=sys.stderr)
        return 2
    gen.ensure_validate_proto()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        results = list(pool.map(lambda name: execute(name, checks[name]), wanted or checks))
    failed = [result for result in results if result.outcome == "FAILED"]
    for result in failed:
        print(f"\n--- {result.name} ---\n{result.details}")
    print(f"\n{', '.join(r.name for r in failed)}: failed" if failed else "All checks passed.")
    return 1 if failed else 0


def execute(name: str, check: Callable[[], None]) -> Result:
    """Run one check and print its line."""
    start = time.monotonic()
    outcome, details = "ok", ""
    try:
        check()
    except subprocess.CalledProcessError as error:
        outcome, details = "FAILED", error.output.strip() or f"exit code {error.returncode}"
    except Failed as failure:
        outcome, details = "FAILED", str(failure)
    except Skipped as reason:
        outcome = f"skipped: {reason}"
    result = Result(name, outcome, time.monotonic() - start, details)
    print(f"{result.name:<10} {result.seconds:5.1f} s  {result.outcome}", flush=True)
    return result


def git(*arguments: str) -> str | None:
    """What git answers, or None where it refuses."""
    done = subprocess.run((*GIT, *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def check_breaking() -> None:
    """Compare the protos with those of the main branch: what callers rely on must stay."""
    if not (ROOT / ".git").exists():
        raise Skipped("this is not a git checkout")
    base = next((ref for ref in ("origin/main", "main") if git("rev-parse", "--verify", "--quiet", ref)), None)
    if base is None:
        raise Skipped("there is no main branch here")
    if git("rev-parse", "--verify", "--quiet", "HEAD^") is None:
        raise Skipped("this is the first commit that is here")
    if not git("ls-tree", base, "protos/"):
        raise Skipped(f"{base} has no protos")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gen.run(*GIT, "archive", "--output", folder / "protos.zip", base, "protos")
        with zipfile.ZipFile(folder / "protos.zip") as archive:
            archive.extractall(folder)
        # Today's buf.yaml, and the module that is not kept in git.
        (folder / "buf.yaml").symlink_to(ROOT / "buf.yaml")
        (folder / ".build").symlink_to(ROOT / ".build")
        image = folder / "main.binpb"
        gen.run("buf", "build", folder / "protos", "--output", image)
        gen.run("buf", "breaking", "protos", "--exclude-imports", "--against", image)


def check_generated() -> None:
    """Generate anew and compare with what is committed."""
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        gen.generate(fresh)
        new, old = gen.contents(fresh), gen.contents(gen.GEN)
    stale = sorted(path for path in new.keys() | old.keys() if new.get(path) != old.get(path))
    if stale:
        raise Failed("\n".join([*(f"gen/{path} is not what the protos give" for path in stale), "Run: make gen"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
