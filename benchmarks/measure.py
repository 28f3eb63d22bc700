"""Rounds: the ones that are compared take turns, so that whatever else the machine does meets all of them."""

import sys
from collections.abc import Callable, Mapping, Sequence
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
    contestants: Mapping[str, tuple[Server, Sequence[Target]]],
    *,
    rounds: int,
    seconds: int,
    before: Callable[[], None] = lambda: None,
) -> dict[str, list[Figures]]:
    """Load each in turn, `rounds` times, after `before` each time. Raises load.WrongAnswers."""
    for name, (_, targets) in contestants.items():
        progress(f"warming up {name}")
        run_load(targets, WARM_UP_SECONDS)
    figures: dict[str, list[Figures]] = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, (server, targets) in contestants.items():
            before()
            used = server.cpu_seconds()
            load = run_load(targets, seconds)
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
        p50_ms=load.percentile(50),
        p99_ms=load.percentile(99),
    )
