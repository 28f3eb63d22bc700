"""`layers`: what each layer around an RPC costs, from a bare grpc.aio handler up to the real service."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from benchmarks.agent_calls import get_agent_target
from benchmarks.layer_server import LAYERS
from benchmarks.load import Target
from benchmarks.measure import Figures, median_of, progress, run_rounds
from benchmarks.processes import Server
from benchmarks.report import print_table
from benchmarks.world import POOL_SIZE
from services.cli.embedded_postgres import EmbeddedPostgres
from services.migrations import migrate

# What a layer is put on top of, where that is not the one before it.
BELOW = {"log": "token", "database": "log"}


@dataclass(frozen=True)
class Layers:
    """The figures of servers of which each has one layer more."""

    figures: dict[str, Figures]

    def added_us(self, layer: str) -> float | None:
        """The processor time that a layer adds to a call, in microseconds."""
        names = list(self.figures)
        position = names.index(layer)
        if position == 0:
            return None
        return self.figures[layer].cpu_us - self.figures[BELOW.get(layer, names[position - 1])].cpu_us

    def show(self) -> None:
        """Print a table, and as the last line what the real service takes for a call."""
        table = Table("layer")
        for heading in ("adds µs", "CPU µs/call", "calls/s"):
            table.add_column(heading, justify="right")
        for name, figures in self.figures.items():
            added = self.added_us(name)
            table.add_row(
                LAYERS[name],
                "" if added is None else f"{added:+.0f}",
                f"{figures.cpu_us:.0f}",
                f"{figures.requests_per_second:,.0f}",
            )
        print("layers: processor time of the server's process for each call of GetAgent")
        print_table(table)
        bare, real = self.figures["bare"].cpu_us, self.figures["database"].cpu_us
        print(f"layers: {real:.0f} µs a call, of which grpc.aio alone takes {bare:.0f}")

    def show_json(self) -> None:
        """Print everything as one JSON object."""
        layers = [
            {"layer": name, "what": LAYERS[name], "adds_us": self.added_us(name), **asdict(figures)}
            for name, figures in self.figures.items()
        ]
        print(json.dumps({"scenario": "layers", "layers": layers}))


def run(*, rounds: int, seconds: int) -> Layers:
    """Measure all layers in turns. Raises load.WrongAnswers."""
    with TemporaryDirectory(prefix="parley-benchmarks-") as name, ExitStack() as stack:
        folder = Path(name)
        progress("starting PostgreSQL")
        postgres = stack.enter_context(EmbeddedPostgres.start(folder / "data", report=progress))
        migrate(postgres.url)
        servers = {layer: stack.enter_context(_layer(layer, postgres.url, folder)) for layer in LAYERS}
        figures = run_rounds(servers, rounds=rounds, seconds=seconds)
    return Layers({layer: median_of(each) for layer, each in figures.items()})


@contextmanager
def _layer(layer: str, database_url: str, folder: Path) -> Iterator[tuple[Server, Sequence[Target]]]:
    progress(f"starting {layer}")
    ready = folder / f"{layer}.ready"
    environment = {
        "PARLEY_DATABASE_URL": database_url,
        "PARLEY_DATABASE_POOL_SIZE": str(POOL_SIZE),
        "PARLEY_DATA_DIR": str(folder / "data"),
        "PARLEY_LISTEN_HOST": "127.0.0.1",
        "PARLEY_LOG_FORMAT": "json",
        "PARLEY_LOG_LEVEL": "info" if layer in ("log", "database") else "warning",
        "PARLEY_BENCHMARK_READY": str(ready),
    }
    with Server.run(layer, ["-m", "benchmarks.layer_server", layer], environment, folder) as server:
        server.wait_until(ready.exists)
        what: dict[str, Any] = json.loads(ready.read_text())
        target = get_agent_target(what["address"], what["token"], what["agent_id"])
        yield server, [target]
