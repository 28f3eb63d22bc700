"""`download`: a large file and many small ones from the file service, beside FastAPI and beside what Python can do."""

from benchmarks.file_orders import Way
from benchmarks.file_world import FileWorld
from benchmarks.transfers import (
    BEST,
    LARGE,
    LIMIT,
    PARLEY,
    PEER,
    SMALL,
    Contestant,
    Goal,
    Scenario,
    Workload,
    measure_downloads,
)


def _contestants(world: FileWorld, _workload: Workload) -> dict[str, Contestant]:
    return {
        PEER: Contestant(world.peer, Way.RAW),
        PARLEY: Contestant(world.parley, Way.CALLS),
        BEST: Contestant(world.peer, Way.RAW, download_query="?large_chunks=true"),
        LIMIT: Contestant(world.limit, Way.RAW, tells_sha256=False),
    }


DOWNLOAD = Scenario(
    name="download",
    what="from the page cache; one process each",
    field=_contestants,
    measure=measure_downloads,
    goals={LARGE: (Goal(PEER, 3.0),), SMALL: (Goal(PEER, 2.0),)},
)
