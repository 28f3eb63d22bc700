"""What the client of files is told to do, and what it says of it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from benchmarks.load import WrongAnswers

CLIENT_SECONDS = 120.0
# glibc gives every large message back to the kernel and faults it in again: the client must not be what is measured.
CLIENT_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20)}


class Way(StrEnum):
    """How files are sent and fetched."""

    STREAMS = "streams"
    """Several files over each of a few UploadFiles streams."""
    CALLS = "calls"
    """One call of UploadFile or DownloadFile for each file."""
    MULTIPART = "multipart"
    """A form with a file, and GET."""
    RAW = "raw"
    """The file as the body of a PUT, and GET."""

    @property
    def is_grpc(self) -> bool:
        """Whether it is gRPC, and HTTP/1.1 otherwise."""
        return self in (Way.STREAMS, Way.CALLS)


@dataclass(frozen=True)
class Order:
    """What to do: upload these files, or download those that have `ids`."""

    way: Way
    address: str
    token: str
    content: str
    """The path of a file that holds the bytes of all files, one after the other."""
    files: int
    file_bytes: int
    in_flight: int
    """How many files at a time."""
    download_query: str = ""
    tells_sha256: bool = True
    """Whether the answer to an upload has the file's SHA-256, or nothing but its id."""
    ids: Sequence[str] = ()
    whole: bool = False
    """Whether downloads are compared with what was uploaded, and not only by size."""

    def slice_of(self, number: int) -> slice:
        """Where a file's bytes are in the content."""
        return slice(number * self.file_bytes, (number + 1) * self.file_bytes)


@dataclass(frozen=True)
class Receipt:
    """What came of it."""

    seconds: float
    cpu_seconds: float
    """Of the client's process, for the same time."""
    ids: Sequence[str] = field(default_factory=list)
    """Of the files uploaded, in order."""


class Transfer(Protocol):
    """An order that is ready to be carried out."""

    async def run(self) -> None:
        """What is measured."""

    def ids(self) -> list[str]:
        """The files' ids. Raises WrongAnswers where one did not come, or did not go, as it should."""


def order_of(text: str) -> Order:
    """The order that this JSON is."""
    given = json.loads(text)
    return replace(Order(**given), way=Way(given["way"]))


def carry_out(order: Order) -> Receipt:
    """Let a new process do it. Raises WrongAnswers."""
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.file_client"],
        env={**os.environ, **CLIENT_ENVIRONMENT},
        input=json.dumps(asdict(order)),
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    if finished.returncode:
        raise WrongAnswers(f"the client of files failed: {finished.stderr.strip()[-2000:]}")
    return Receipt(**json.loads(finished.stdout))
