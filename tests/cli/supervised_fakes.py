"""A program that supervises stand-ins: `python supervised_fakes.py FOLDER NAME=BEHAVIOUR...`.

Processes named before a `,` are started before those after it. The behaviours are those of `_FAKE`.
"""

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from services.cli.log_output import Output
from services.cli.processes import ProcessSpec
from services.cli.readiness import file_exists
from services.cli.supervisor import Ended, Supervisor

_FAKE = """
import os, pathlib, signal, sys, time
name, behaviour, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
def stopped(*_):
    with (folder / "ends").open("a") as ends:
        ends.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else stopped)
if behaviour == "parent" and os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "grandchild.pid").write_text(str(os.getpid()))
    time.sleep(600)
with (folder / f"{name}.pids").open("a") as pids:
    pids.write(f"{os.getpid()}\\n")
if behaviour.startswith("exit"):
    sys.exit(int(behaviour[4:]))
if behaviour == "noisy":
    print("x" * 100_000)
print("hello from", name, flush=True)
(folder / f"{name}.ready").touch()
time.sleep(600)
"""


def _spec(folder: Path, name: str, behaviour: str) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-S", "-c", _FAKE, name, behaviour, str(folder)),
        prepare=lambda: (folder / f"{name}.ready").unlink(missing_ok=True),
        ready=file_exists(folder / f"{name}.ready"),
        grace=1.0,
    )


async def _main(folder: Path, groups: list[list[str]]) -> int:
    output = Output([])
    exit_code = 0
    async with Supervisor(output) as supervisor:
        try:
            for group in groups:
                await supervisor.start(*(_spec(folder, *process.split("=")) for process in group))
            output.say(f"all ready, pid {os.getpid()}")
            exit_code = await supervisor.wait()
        except Ended as ended:
            exit_code = ended.exit_code
    output.close()
    return exit_code


if __name__ == "__main__":
    groups = [group.split() for group in " ".join(sys.argv[2:]).split(",")]
    sys.exit(asyncio.run(_main(Path(sys.argv[1]), groups)))
