"""An S3 server on this machine for tests: versitygw, which keeps objects as files of a folder.

`python -m tools.s3_server` builds it, once, with the machine's Go; the module's checksums are those that Go verifies.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

MODULE = "github.com/versity/versitygw/cmd/versitygw"
VERSION = "v1.8.0"
NEEDS_GO = "1.25"
PROGRAM = Path(__file__).resolve().parent.parent / ".build" / "s3" / f"versitygw-{VERSION}"

REGION = "us-east-1"
BUCKET = "parley"
OPTIONS = ("--quiet", "--keep-alive", "--region", REGION)
START_SECONDS = 20.0
STOP_SECONDS = 10.0


class ServerUnavailable(Exception):
    """There is no S3 server: the text says why, and what to do."""


@dataclass(frozen=True)
class S3Server:
    """One that runs. Its bucket is a folder, and an object in it a file."""

    endpoint: str
    access_key_id: str
    secret_access_key: str
    folder: Path
    pid: int

    @property
    def environment(self) -> Mapping[str, str]:
        """What lets obstore, like other clients of S3, find it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": REGION,
        }


def main() -> int:
    """Have the program; the exit code."""
    try:
        ensure_installed()
    except ServerUnavailable as reason:
        print(f"s3_server: {reason}", file=sys.stderr)
        return 1
    return 0


def ensure_installed() -> None:
    """Build the program, unless it is there. Raises ServerUnavailable."""
    if PROGRAM.exists():
        return
    go = shutil.which("go")
    if go is None:
        raise ServerUnavailable(f"versitygw is built with Go {NEEDS_GO} or newer, and there is no `go` on the PATH")
    print(f"Building versitygw {VERSION} (once, about a minute) ...", flush=True)
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PROGRAM.parent) as folder:
        build = subprocess.run(
            [go, "install", f"{MODULE}@{VERSION}"],
            env={**os.environ, "GOBIN": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if build.returncode != 0:
            raise ServerUnavailable(f"versitygw cannot be built (it needs Go {NEEDS_GO} or newer):\n{build.stdout}")
        (Path(folder) / "versitygw").replace(PROGRAM)


@contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    """A server on loopback with its data in an empty folder, an empty bucket, and a key made for it."""
    for name in ("objects", "metadata"):
        (folder / name).mkdir()
    key_id, secret = f"tests-{secrets.token_hex(8)}", secrets.token_urlsafe(32)
    address = f"127.0.0.1:{_free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            (PROGRAM, *OPTIONS, "--port", address, "posix", "--sidecar", folder / "metadata", folder / "objects"),
            env={"ROOT_ACCESS_KEY_ID": key_id, "ROOT_SECRET_ACCESS_KEY": secret},
            stdout=log,
            stderr=log,
        )
    try:
        bucket = folder / "objects" / BUCKET
        bucket.mkdir()
        server = S3Server(f"http://{address}", key_id, secret, bucket, process.pid)
        _wait_until_it_answers(server, process, folder / "log")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    objects = S3Store(
        BUCKET,
        endpoint=server.endpoint,
        region=REGION,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        client_options={"allow_http": True, "timeout": "1s"},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            next(iter(obstore.list(objects)), None)
        except BaseError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerUnavailable(f"versitygw does not answer: {log.read_text()}") from error
            time.sleep(0.05)
        else:
            return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
