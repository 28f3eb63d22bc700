"""What `upload` and `download` share: the workloads, the contestants, their rounds, and how the results are shown."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.file_orders import Order, Receipt, Way, carry_out
from benchmarks.file_world import MIB, FileWorld, Storing, open_file_world
from benchmarks.measure import progress
from benchmarks.report import print_table

KIB = 1024
SMALL_FILE_BYTES = 64 * KIB
SMALL_IN_FLIGHT = 32
LARGE, SMALL = "large", "small"
PARLEY, PARLEY_BY_CALLS, PEER, BEST, LIMIT = "parley", "parley, a call each", "fastapi", "fastapi, best", "limit"


@dataclass(frozen=True)
class Workload:
    """Files that are transferred."""

    name: str
    files: int
    file_bytes: int
    in_flight: int

    @property
    def what(self) -> str:
        """It in words."""
        if self.files == 1:
            return f"one file of {self.file_bytes // MIB} MiB"
        return f"{self.files:,} files of {self.file_bytes // KIB} KiB, {self.in_flight} at a time"

    @property
    def unit(self) -> str:
        """What is counted: MB (of 10^6 bytes) or files in a second."""
        return "MB/s" if self.files == 1 else "files/s"

    def rate(self, seconds: float) -> float:
        """So many of the unit."""
        return (self.file_bytes / 1e6 if self.files == 1 else self.files) / seconds


@dataclass(frozen=True)
class Contestant:
    """A server, and the way in which its client sends and fetches files."""

    storing: Storing
    way: Way
    download_query: str = ""
    tells_sha256: bool = True

    def order(self, world: FileWorld, workload: Workload) -> Order:
        """The order to upload the files of the workload."""
        return Order(
            way=self.way,
            address=self.storing.address,
            token=world.access_token,
            content=str(world.content),
            files=workload.files,
            file_bytes=workload.file_bytes,
            in_flight=workload.in_flight,
            download_query=self.download_query,
            tells_sha256=self.tells_sha256,
        )


@dataclass(frozen=True)
class Figures:
    """What a round showed, or the median of each figure over several."""

    rate: float
    peak_mib: float
    """The most memory that the server's process had resident."""
    cpu_seconds: float
    """Processor time of the server's process."""
    client_cpu_seconds: float


@dataclass(frozen=True)
class Goal:
    """What is to be reached beside one of the others."""

    beside: str
    times: float
    memory_share: float | None = None


@dataclass(frozen=True)
class Contest:
    """All that were measured at one workload."""

    scenario: str
    workload: Workload
    rounds: Mapping[str, Sequence[Figures]]
    goals: Sequence[Goal]

    @property
    def figures(self) -> dict[str, Figures]:
        """The medians."""
        return {name: _median_of(rounds) for name, rounds in self.rounds.items()}

    def verdicts(self) -> list[tuple[str, bool]]:
        """A line for each goal, and whether it is reached."""
        figures, lines = self.figures, []
        ours = figures[PARLEY]
        for goal in self.goals:
            other = figures[goal.beside]
            times, share = ours.rate / other.rate, ours.peak_mib / other.peak_mib
            head, unit = f"{self.scenario} {self.workload.name}:", self.workload.unit
            lines.append(
                (f"{head} {times:.2f} times the {unit} of {goal.beside}; goal {goal.times:g}", times >= goal.times)
            )
            if goal.memory_share is not None:
                is_reached = share <= goal.memory_share
                lines.append((f"{head} {share:.2f} of its peak memory; goal {goal.memory_share:.2f}", is_reached))
        return lines

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        medians = {name: asdict(figures) for name, figures in self.figures.items()}
        verdicts = [{"goal": line, "reached": is_reached} for line, is_reached in self.verdicts()]
        return {**asdict(self), "unit": self.workload.unit, "figures": medians, "verdicts": verdicts}


@dataclass(frozen=True)
class Transfers:
    """The contests of a scenario."""

    scenario: str
    what: str
    contests: Sequence[Contest]

    @property
    def is_reached(self) -> bool:
        """Whether every goal is."""
        return all(is_reached for contest in self.contests for _, is_reached in contest.verdicts())

    def show(self) -> None:
        """Print one table, and a line for each goal."""
        table = Table("files", "contestant")
        for heading in ("rate", "", "ratio", "peak RSS MiB", "CPU s", "client's CPU s"):
            table.add_column(heading, justify="left" if not heading else "right")
        for contest in self.contests:
            figures = contest.figures
            for name, f in figures.items():
                table.add_row(
                    contest.workload.name if name == next(iter(figures)) else "",
                    name,
                    f"{f.rate:,.0f}",
                    contest.workload.unit,
                    f"{f.rate / figures[PEER].rate:.2f}",
                    f"{f.peak_mib:,.0f}",
                    f"{f.cpu_seconds:.2f}",
                    f"{f.client_cpu_seconds:.2f}",
                )
        print(f"{self.scenario}: {self.what}")
        for contest in self.contests:
            print(f"{contest.workload.name}: {contest.workload.what}")
        print_table(table)
        for contest in self.contests:
            for line, is_reached in contest.verdicts():
                print(f"{line}: {'reached' if is_reached else 'MISSED'}")

    def show_json(self) -> None:
        """Print everything as one JSON object."""
        contests = [contest.as_json() for contest in self.contests]
        print(json.dumps({"scenario": self.scenario, "contests": contests, "reached": self.is_reached}))


Rounds = dict[str, list[Figures]]
Measure = Callable[[FileWorld, Workload, Mapping[str, Contestant], int], Rounds]
Field = Callable[[FileWorld, Workload], Mapping[str, Contestant]]


@dataclass(frozen=True)
class Scenario:
    """What is compared, how, and what is to be reached."""

    name: str
    what: str
    field: Field
    """The contestants at a workload."""
    measure: Measure
    goals: Mapping[str, Sequence[Goal]]
    """By workload."""

    def run(self, *, rounds: int, mib: int, files: int, only: Sequence[str], records: bool) -> Transfers:
        """Measure one large file of so many MiB, and so many small ones. Raises load.WrongAnswers."""
        both = [Workload(LARGE, 1, mib * MIB, 1), Workload(SMALL, files, SMALL_FILE_BYTES, SMALL_IN_FLIGHT)]
        chosen = [workload for workload in both if not only or workload.name in only]
        contests = []
        with open_file_world(content_bytes=max(w.files * w.file_bytes for w in chosen), records=records) as world:
            for workload in chosen:
                figures = self.measure(world, workload, self.field(world, workload), rounds)
                contests.append(Contest(self.name, workload, figures, self.goals[workload.name]))
        return Transfers(self.name, self.what, contests)


def measure_uploads(world: FileWorld, workload: Workload, contestants: Mapping[str, Contestant], rounds: int) -> Rounds:
    """Upload to each in turn; what was stored is removed each time. Raises load.WrongAnswers."""
    for name, contestant in contestants.items():
        progress(f"warming up {name}")
        upload = contestant.order(world, workload)
        carry_out(replace(upload, ids=carry_out(upload).ids, whole=True))
        world.remove_files(contestant.storing)

    def once(contestant: Contestant) -> Receipt:
        try:
            return carry_out(contestant.order(world, workload))
        finally:
            world.remove_files(contestant.storing)

    return _rounds(workload, contestants, rounds, once)


def measure_downloads(
    world: FileWorld, workload: Workload, contestants: Mapping[str, Contestant], rounds: int
) -> Rounds:
    """Download from each in turn what was uploaded before. Raises load.WrongAnswers."""
    orders = {}
    for name, contestant in contestants.items():
        progress(f"uploading to {name}")
        upload = contestant.order(world, workload)
        orders[contestant] = replace(upload, ids=carry_out(upload).ids)
        carry_out(replace(orders[contestant], whole=True))
    figures = _rounds(workload, contestants, rounds, lambda contestant: carry_out(orders[contestant]))
    for contestant in contestants.values():
        world.remove_files(contestant.storing)
    return figures


def _rounds(
    workload: Workload, contestants: Mapping[str, Contestant], rounds: int, once: Callable[[Contestant], Receipt]
) -> Rounds:
    figures: Rounds = {name: [] for name in contestants}
    for number in range(1, rounds + 1):
        for name, contestant in contestants.items():
            server = contestant.storing.server
            server.forget_peak()
            used = server.cpu_seconds()
            receipt = once(contestant)
            rate = workload.rate(receipt.seconds)
            figures[name].append(
                Figures(rate, server.peak_bytes() / MIB, server.cpu_seconds() - used, receipt.cpu_seconds)
            )
            progress(f"round {number} of {rounds}: {workload.name}: {name}: {rate:,.0f} {workload.unit}")
    return figures


def _median_of(rounds: Sequence[Figures]) -> Figures:
    each = [asdict(figures) for figures in rounds]
    return Figures(**{name: median(figures[name] for figures in each) for name in each[0]})
