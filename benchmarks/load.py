"""Load from h2load (of nghttp2), for gRPC and for HTTP/1.1, and what it says about it."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

EXIT_NOTHING_TO_MEASURE_WITH = 2
IN_FLIGHT = 32
GRPC_STREAMS = 8
"""Of one connection."""
WARM_UP_SECONDS = 1
# What h2load may take to connect and to end, beyond the time of the load itself.
MARGIN_SECONDS = 20

_DONE = re.compile(
    r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout"
)
_STATUSES = re.compile(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")
_DATA = re.compile(r"traffic: .*, [\d.]+\w+ \((\d+)\) data")
_RATE = re.compile(r"finished in [\d.]+m?s, ([\d.]+) req/s")


class WrongAnswers(Exception):
    """The server did not answer every request rightly, so there is nothing to compare."""


@dataclass(frozen=True)
class Target:
    """What to call, and how many bytes each right answer has."""

    url: str
    headers: Mapping[str, str]
    answer_bytes: int
    body: bytes | None = None
    """What is sent with each request, as POST; None for a GET."""
    is_grpc: bool = False
    """Whether it is called over HTTP/2, as gRPC does, with several requests on a connection."""
    varies: int = 0
    """How many bytes more or less a right answer may have, such as for its times."""


@dataclass(frozen=True)
class Load:
    """What was measured from the client's side."""

    requests: int
    requests_per_second: float
    milliseconds: Sequence[float]
    """How long each took, sorted."""

    def percentile(self, percent: int) -> float:
        """The time within which so many of a hundred requests were answered, in milliseconds."""
        return self.milliseconds[len(self.milliseconds) * percent // 100]


def require_h2load() -> None:
    """End with exit code 2 if there is no h2load."""
    if shutil.which("h2load") is None:
        sys.stderr.write(
            "benchmarks: h2load is missing, which makes the load; Debian and Ubuntu have it in the package"
            " nghttp2-client: apt-get install nghttp2-client\n"
        )
        raise SystemExit(EXIT_NOTHING_TO_MEASURE_WITH)


def run_load(targets: Sequence[Target], seconds: int) -> Load:
    """Keep IN_FLIGHT requests in flight for so many seconds, equally many for each target. Raises WrongAnswers."""
    with ThreadPoolExecutor(len(targets)) as pool:
        share = IN_FLIGHT // len(targets)
        loads = list(pool.map(lambda target: _run_one(target, share, seconds), targets))
    return Load(
        requests=sum(load.requests for load in loads),
        requests_per_second=sum(load.requests_per_second for load in loads),
        milliseconds=sorted(time for load in loads for time in load.milliseconds),
    )


def _run_one(target: Target, in_flight: int, seconds: int) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder, "times")
        command = ["h2load", "--threads=1", f"--duration={seconds}", f"--log-file={times}"]
        if target.is_grpc:
            connections = max(1, in_flight // GRPC_STREAMS)
            command += [f"--clients={connections}", f"--max-concurrent-streams={in_flight // connections}"]
        else:
            command += ["--h1", f"--clients={in_flight}"]
        if target.body is not None:
            body = Path(folder, "body")
            body.write_bytes(target.body)
            command += [f"--data={body}"]
        command += [f"--header={name}: {value}" for name, value in target.headers.items()]
        finished = subprocess.run(
            [*command, target.url], capture_output=True, text=True, timeout=seconds + MARGIN_SECONDS, check=False
        )
        if finished.returncode:
            raise WrongAnswers(f"h2load ended with exit code {finished.returncode}: {finished.stderr.strip()}")
        return _read(finished.stdout, times.read_text().splitlines(), target)


def grpc_frame(message: bytes) -> bytes:
    """A message as gRPC puts it into the body: not compressed, with its length."""
    return b"\0" + len(message).to_bytes(4) + message


def _read(output: str, times: Sequence[str], target: Target) -> Load:
    done, statuses, data, rate = (pattern.search(output) for pattern in (_DONE, _STATUSES, _DATA, _RATE))
    if not (done and statuses and data and rate):
        raise WrongAnswers(f"h2load said something else than expected:\n{output}")
    requests, succeeded, failed, errored, timed_out = map(int, done.groups())
    if not requests or succeeded != requests or failed or errored or timed_out or any(map(int, statuses.groups()[1:])):
        raise WrongAnswers(f"not every request was answered with 200:\n{output}")
    # A gRPC call that fails has no body. What was still on its way at the end may be counted or not.
    tolerance = IN_FLIGHT * target.answer_bytes + requests * target.varies
    if abs(int(data[1]) - requests * target.answer_bytes) > tolerance:
        wanted = requests * target.answer_bytes
        raise WrongAnswers(f"{requests} right answers have {wanted} bytes, and these had {data[1]}")
    return Load(
        requests=requests,
        requests_per_second=float(rate[1]),
        milliseconds=[int(line.split("\t")[2]) / 1000 for line in times],
    )
