"""`upload`: a large file and many small ones into the file service, beside FastAPI and beside what Python can do."""

from benchmarks.file_orders import Way
from benchmarks.file_world import FileWorld
from benchmarks.transfers import (
    BEST,
    LARGE,
    LIMIT,
    PARLEY,
    PARLEY_BY_CALLS,
    PEER,
    SMALL,
    Contestant,
    Goal,
    Scenario,
    Workload,
    measure_uploads,
)


def _contestants(world: FileWorld, workload: Workload) -> dict[str, Contestant]:
    by_calls = Contestant(world.parley, Way.CALLS)
    if workload.name == LARGE:
        ours = {PARLEY: by_calls}
    else:
        ours = {PARLEY: Contestant(world.parley, Way.STREAMS), PARLEY_BY_CALLS: by_calls}
    return {
        PEER: Contestant(world.peer, Way.MULTIPART),
        **ours,
        BEST: Contestant(world.peer, Way.RAW),
        LIMIT: Contestant(world.limit, Way.RAW, tells_sha256=False),
    }


UPLOAD = Scenario(
    name="upload",
    what="SHA-256, and on the disk before it is answered; one process each",
    field=_contestants,
    measure=measure_uploads,
    goals={LARGE: (Goal(PEER, 2.0, memory_share=1 / 3), Goal(BEST, 1.2)), SMALL: (Goal(PEER, 2.0),)},
)
