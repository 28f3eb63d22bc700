"""How results are shown: a table and one last line for people, one object for machines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

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
        word = "reached" if self.is_reached else "MISSED"
        print(f"{self.scenario}: {self.ratio:.2f} times the requests/s of {self.peer}; goal {self.goal:g}: {word}")

    def show_json(self) -> None:
        """Print everything as one JSON object."""
        print(json.dumps({**asdict(self), "ratio": round(self.ratio, 3), "reached": self.is_reached}))


def print_table(table: Table) -> None:
    """Print a table in full, wherever it goes."""
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
