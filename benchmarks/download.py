"""`download`: a large file and many small ones from the file service, beside FastAPI and beside what Python can do."""

from collections.abc import Sequence

from benchmarks.file_orders import Way
from benchmarks.file_world import FileWorld, open_file_world
from benchmarks.transfers import (
    BEST,
    LARGE,
    LIMIT,
    PARLEY,
    PEER,
    SMALL,
    Contest,
    Contestant,
    Goal,
    Transfers,
    measure_downloads,
    workloads,
)

GOALS = {LARGE: (Goal(PEER, 3.0),), SMALL: (Goal(PEER, 2.0),)}


def run(*, rounds: int, mib: int, files: int, only: Sequence[str], records: bool) -> Transfers:
    """Measure them in turns. Raises load.WrongAnswers where one does not give what it was sent."""
    chosen = workloads(mib=mib, files=files, only=only)
    with open_file_world(content_bytes=max(w.files * w.file_bytes for w in chosen), records=records) as world:
        contests = [
            Contest(
                "download",
                workload,
                measure_downloads(world, workload, _contestants(world), rounds),
                GOALS[workload.name],
            )
            for workload in chosen
        ]
    return Transfers("download", "from the page cache; one process each", contests)


def _contestants(world: FileWorld) -> dict[str, Contestant]:
    return {
        PEER: Contestant(world.peer, Way.RAW),
        PARLEY: Contestant(world.parley, Way.CALLS),
        BEST: Contestant(world.peer, Way.RAW, download_query="?large_chunks=true"),
        LIMIT: Contestant(world.limit, Way.RAW, tells_sha256=False),
    }
