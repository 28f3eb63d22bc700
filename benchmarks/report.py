"""How results are shown: a table and one last line for people, one object for machines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figures


@dataclass(frozen=True)
class Contest:
    """Two that were measured at the same work."""

    scenario: str
    what: str
    figures: Mapping[str, Figures]
    """The median of each figure over all rounds."""
    rounds: Mapping[str, Sequence[Figures]]
    ours: str
    peer: str
    goal: float
    settings: Mapping[str, object]

    @property
    def ratio(self) -> float:
        """How many times the peer's requests/s ours are."""
        return self.figures[self.ours].requests_per_second / self.figures[self.peer].requests_per_second

    @property
    def is_reached(self) -> bool:
        """Whether the goal is."""
        return self.ratio >= self.goal

    @property
    def verdict(self) -> str:
        """The ratio and its goal, in a line."""
        word = "reached" if self.is_reached else "MISSED"
        return f"{self.scenario}: {self.ratio:.2f} times the requests/s of {self.peer}; goal {self.goal:g}: {word}"

    def show(self) -> None:
        """Print a table and, as the last line, the ratio and its goal."""
        table = Table("server")
        for heading in ("requests/s", "CPU µs/request", "p50 ms", "p99 ms"):
            table.add_column(heading, justify="right")
        for name, f in self.figures.items():
            table.add_row(
                name, f"{f.requests_per_second:,.0f}", f"{f.cpu_us:,.0f}", f"{f.p50_ms:.1f}", f"{f.p99_ms:.1f}"
            )
        print(f"{self.scenario}: {self.what}")
        print_table(table)
        print(self.verdict)

    def show_json(self) -> None:
        """Print everything as one JSON object."""
        print(json.dumps(self.as_json()))

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {**asdict(self), "ratio": round(self.ratio, 3), "reached": self.is_reached}


@dataclass(frozen=True)
class Contests:
    """Several of them, of one scenario."""

    scenario: str
    contests: Sequence[Contest]

    @property
    def is_reached(self) -> bool:
        """Whether every goal is."""
        return all(contest.is_reached for contest in self.contests)

    def show(self) -> None:
        """Print one table, and a line for each with the ratio and its goal."""
        table = Table("call", "server")
        for heading in ("requests/s", "CPU µs/request", "p50 ms", "p99 ms", "ratio"):
            table.add_column(heading, justify="right")
        for contest in self.contests:
            for name, f in contest.figures.items():
                table.add_row(
                    contest.scenario if name == contest.ours else "",
                    name,
                    f"{f.requests_per_second:,.0f}",
                    f"{f.cpu_us:,.0f}",
                    f"{f.p50_ms:.1f}",
                    f"{f.p99_ms:.1f}",
                    f"{contest.ratio:.2f}" if name == contest.ours else "",
                )
        for contest in self.contests:
            print(f"{contest.scenario}: {contest.what}")
        print_table(table)
        for contest in self.contests:
            print(contest.verdict)

    def show_json(self) -> None:
        """Print everything as one JSON object."""
        contests = [contest.as_json() for contest in self.contests]
        print(json.dumps({"scenario": self.scenario, "contests": contests, "reached": self.is_reached}))


def print_table(table: Table) -> None:
    """Print a table in full, wherever it goes."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
