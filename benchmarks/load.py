"""Load from h2load (of nghttp2), for gRPC and for HTTP/1.1, and what it says about it."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

EXIT_NOTHING_TO_MEASURE_WITH = 2
IN_FLIGHT = 32
GRPC_CONNECTIONS = 4
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
    grpc_message: bytes | None = None
    """The request of a unary gRPC call; None for a GET over HTTP/1.1."""


@dataclass(frozen=True)
class Load:
    """What was measured from the client's side."""

    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float


def require_h2load() -> None:
    """End with exit code 2 if there is no h2load."""
    if shutil.which("h2load") is None:
        sys.stderr.write(
            "benchmarks: h2load is missing, which makes the load; Debian and Ubuntu have it in the package"
            " nghttp2-client: apt-get install nghttp2-client\n"
        )
        raise SystemExit(EXIT_NOTHING_TO_MEASURE_WITH)


def run_load(target: Target, seconds: int) -> Load:
    """Keep IN_FLIGHT requests in flight for so many seconds. Raises WrongAnswers."""
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder, "times")
        command = ["h2load", "--threads=1", f"--duration={seconds}", f"--log-file={times}"]
        if target.grpc_message is None:
            command += ["--h1", f"--clients={IN_FLIGHT}"]
        else:
            body = Path(folder, "body")
            body.write_bytes(grpc_frame(target.grpc_message))
            streams = IN_FLIGHT // GRPC_CONNECTIONS
            command += [f"--clients={GRPC_CONNECTIONS}", f"--max-concurrent-streams={streams}", f"--data={body}"]
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
    if abs(int(data[1]) - requests * target.answer_bytes) > IN_FLIGHT * target.answer_bytes:
        wanted = requests * target.answer_bytes
        raise WrongAnswers(f"{requests} right answers have {wanted} bytes, and these had {data[1]}")
    milliseconds = sorted(int(line.split("\t")[2]) / 1000 for line in times)
    return Load(
        requests=requests,
        requests_per_second=float(rate[1]),
        p50_ms=milliseconds[len(milliseconds) // 2],
        p99_ms=milliseconds[len(milliseconds) * 99 // 100],
    )
