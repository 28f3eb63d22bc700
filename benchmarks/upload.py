"""`upload`: a large file and many small ones into the file service, beside FastAPI and beside what Python can do."""

from collections.abc import Sequence

from benchmarks.file_orders import Way
from benchmarks.file_world import FileWorld, open_file_world
from benchmarks.transfers import (
    BEST,
    LARGE,
    LIMIT,
    PARLEY,
    PARLEY_BY_CALLS,
    PEER,
    SMALL,
    Contest,
    Contestant,
    Goal,
    Transfers,
    Workload,
    measure_uploads,
    workloads,
)

GOALS = {
    LARGE: (Goal(PEER, 2.0, memory_share=1 / 3), Goal(BEST, 1.2)),
    SMALL: (Goal(PEER, 2.0),),
}


def run(*, rounds: int, mib: int, files: int, only: Sequence[str], records: bool) -> Transfers:
    """Measure them in turns. Raises load.WrongAnswers where one does not keep what it was sent."""
    chosen = workloads(mib=mib, files=files, only=only)
    with open_file_world(content_bytes=max(w.files * w.file_bytes for w in chosen), records=records) as world:
        contests = [
            Contest(
                "upload",
                workload,
                measure_uploads(world, workload, _contestants(world, workload), rounds),
                GOALS[workload.name],
            )
            for workload in chosen
        ]
    return Transfers("upload", "SHA-256, and on the disk before it is answered; one process each", contests)


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
