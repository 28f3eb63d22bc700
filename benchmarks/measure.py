"""Rounds: the ones that are compared take turns, so that whatever else the machine does meets all of them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.load import WARM_UP_SECONDS, Load, Target, run_load
from benchmarks.processes import Server


@dataclass(frozen=True)
class Figures:
    """What a server did under load; over several rounds, the median of each."""

    requests_per_second: float
    cpu_us: float
    """Processor time of the server's process for each request, in microseconds."""
    p50_ms: float
    p99_ms: float


def run_rounds(
    contestants: Mapping[str, tuple[Server, Target]], *, rounds: int, seconds: int
) -> dict[str, list[Figures]]:
    """Load each in turn, `rounds` times. Raises load.WrongAnswers."""
    for name, (_, target) in contestants.items():
        progress(f"warming up {name}")
        run_load(target, WARM_UP_SECONDS)
    figures: dict[str, list[Figures]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, (server, target) in contestants.items():
            used = server.cpu_seconds()
            load = run_load(target, seconds)
            figures[name].append(_figures(load, server.cpu_seconds() - used))
            progress(f"round {number} of {rounds}: {name}: {load.requests_per_second:,.0f} requests/s")
    return figures


def median_of(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    each = [asdict(figures) for figures in rounds]
    return Figures(**{name: median(figures[name] for figures in each) for name in each[0]})


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    sys.stderr.write(f"{text}\n")


def _figures(load: Load, cpu_seconds: float) -> Figures:
    return Figures(
        requests_per_second=load.requests_per_second,
        cpu_us=cpu_seconds / load.requests * 1e6,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
    )
