"""Object stores that are away, hang or refuse: how soon that is told, to whom, and that no key is told with it."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb2

from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.file.models import Part
from services.file.store import Bucket, PartLost, PartStore, StoreFailed, open_parts
from services.file.store.opening import objects_at
from services.kit.settings import SettingUnusable
from tests.cli.processes_seen import WITH_OUR_MODULES, python
from tests.cli.test_demo import free_ports
from tests.file.steps import DEADLINE, PART, Kept, some_bytes, upload, whole
from tests.support import bearer, detail, reason_of, status_of

KEY_ID, SECRET = "AKIACANARY0123456789", "canary-secret-that-is-told-to-nobody"
URL = "s3://bucket/prefix"
BUSY_SECONDS = 3.0
"""What a busy machine may add; without what the bounds look for it takes a dozen seconds, or three minutes."""


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says where the object store is."""

    def at(endpoint: str) -> None:
        for name, value in {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": KEY_ID, "SECRET_ACCESS_KEY": SECRET}.items():
            monkeypatch.setenv(f"AWS_{name}", value)

    return at


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """An object store that answers everything with this; its address."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        # The names are those that http.server calls.
        do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def error_body(code: str) -> str:
    """On one line, with everything that servers repeat of a request."""
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId>{SECRET}</Error>'


def failing(url: str = URL, timeout: float = 1.0) -> dict[str, Callable[[], object]]:
    """Every call of a store."""
    store, key = Bucket(objects_at(url, timeout)), PartStore.new_key()
    return {
        "put": lambda: store.put(key, [b"one", b"two"]),
        "get": lambda: store.get(key),
        "delete": lambda: store.delete([key]),
        "list": lambda: next(store.list()),
    }


@pytest.mark.parametrize("call", ["put", "get", "delete", "list"])
def test_a_store_that_cannot_be_reached_fails_in_one_line_that_says_why(at: Any, call: str) -> None:
    at(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreFailed, match=r"^[^\n]*Connection refused[^\n]*$"):
        failing()[call]()


@pytest.mark.parametrize("call", ["put", "get", "delete", "list"])
def test_a_refusal_is_told_without_what_the_store_repeats_of_the_request(at: Any, call: str) -> None:
    with answering(403, error_body("SignatureDoesNotMatch")) as endpoint:
        at(endpoint)
        with pytest.raises(StoreFailed) as caught:
            failing()[call]()
    assert str(caught.value).endswith("403 Forbidden (SignatureDoesNotMatch)")
    assert not any(secret in str(caught.value) for secret in (KEY_ID, SECRET, "?"))


@pytest.mark.parametrize("call", ["put", "get", "delete", "list"])
def test_a_bucket_that_is_gone_is_a_failure_and_no_lost_part(at: Any, call: str) -> None:
    with answering(404, error_body("NoSuchBucket")) as endpoint:
        at(endpoint)
        with pytest.raises(StoreFailed, match="NoSuchBucket"):
            failing()[call]()


def test_a_part_that_a_bucket_does_not_have_is_lost(at: Any) -> None:
    with answering(404, error_body("NoSuchKey")) as endpoint:
        at(endpoint)
        with pytest.raises(PartLost):
            failing()["get"]()


@pytest.fixture
def hanging(at: Any) -> Iterator[None]:
    """A store that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        at(f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield


@pytest.mark.usefixtures("hanging")
@pytest.mark.parametrize("call", ["put", "get", "delete", "list"])
def test_a_store_that_hangs_fails_in_one_and_a_half_times_the_timeout(call: str) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreFailed):
        failing(timeout=1.0)[call]()
    assert time.monotonic() - begun < 1.5 + BUSY_SECONDS


@pytest.mark.usefixtures("hanging")
async def test_those_who_wait_for_a_store_that_hangs_do_not_wait_one_after_the_other() -> None:
    part = Part(0, 1, 0, PartStore.new_key())
    async with open_parts(URL, threads=2, timeout=0.5) as parts:
        begun = time.monotonic()
        results = await asyncio.gather(
            *(parts.put(part, [b"x"], lambda _: None) for _ in range(50)), return_exceptions=True
        )
    assert all(isinstance(result, StoreFailed) for result in results)
    assert time.monotonic() - begun < 0.5 + 1.5 * 0.5 + BUSY_SECONDS


async def test_a_service_starts_without_its_store_and_says_unavailable(serve_files: Any, as_user: Any, at: Any) -> None:
    at(f"http://127.0.0.1:{free_ports(1)[0]}")
    files = await serve_files(file_store_url=URL, file_store_timeout=1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(files, as_user("ann"), whole(some_bytes(PART + 1)))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert reason_of(status_of(caught.value)) == "STORE_UNAVAILABLE"
    assert detail(status_of(caught.value), details_pb2.RetryInfo) is not None


@pytest.mark.parametrize(
    ("status", "code"), [(404, "NoSuchBucket"), (403, "AccessDenied"), (403, "InvalidAccessKeyId"), (400, "Malformed")]
)
async def test_a_store_that_refuses_ends_the_start(at: Any, status: int, code: str) -> None:
    with answering(status, error_body(code)) as endpoint:
        at(endpoint)
        with pytest.raises(SettingUnusable) as caught:
            async with open_parts(URL, threads=1):
                pass
    said = str(caught.value)
    assert said.startswith("PARLEY_FILE_STORE_URL: the store cannot be opened: ")
    assert said.endswith(f"({code})")
    assert not any(secret in said for secret in (KEY_ID, SECRET, "\n"))


async def test_a_store_that_is_only_busy_does_not_end_the_start(at: Any) -> None:
    with answering(503, error_body("SlowDown")) as endpoint:
        at(endpoint)
        async with open_parts(URL, threads=1, timeout=0.2) as parts:
            with pytest.raises(StoreFailed, match="SlowDown"):
                await parts.get(Part(0, 1, 0, PartStore.new_key()))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"PARLEY_FILE_STORE_URL": "s3://nothing-here/prefix"}, "NoSuchBucket"),
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": KEY_ID}, "UserNotFound"),
    ],
    ids=["no bucket", "wrong secret", "unknown key"],
)
def test_a_process_that_s3_refuses_says_so_in_its_last_line_and_exits_with_2(
    kept: Kept, s3: Any, tmp_path: Path, wrong: dict[str, str], says: str
) -> None:
    given = {"PARLEY_FILE_STORE_URL": kept.url, "PARLEY_DATABASE_URL": "postgresql://127.0.0.1:1/parley", **wrong}
    ended = subprocess.run(
        [sys.executable, "-m", "services.file"],
        env={**s3.environment, **WITH_OUR_MODULES, "PARLEY_DATA_DIR": str(tmp_path), **given},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert ended.returncode == 2
    *_, line = ended.stderr.splitlines()
    assert line.startswith("parley: PARLEY_FILE_STORE_URL: the store cannot be opened: ")
    assert says in line
    for secret in (KEY_ID, SECRET, s3.access_key_id, s3.secret_access_key):
        assert secret not in ended.stdout + ended.stderr


@pytest.mark.usefixtures("s3")
def test_more_than_s3_lists_at_a_time_is_listed(kept: Kept) -> None:
    folder = kept.folder / "ab"
    folder.mkdir(parents=True)
    for n in range(2100):
        (folder / f"{n:04}").write_bytes(bytes(n % 3))
    pages = list(Bucket(objects_at(kept.url, 10)).list())
    assert [len(page) for page in pages] == [1000, 1000, 100]
    assert [(stored.key, stored.size_bytes) for page in pages for stored in page] == [
        (f"ab/{n:04}", n % 3) for n in range(2100)
    ]


SERVED = """
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import UUID
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.process import run_service
from tests.support import TestKeys, identity_of

keys = TestKeys()

@asynccontextmanager
async def open_with_our_keys(settings):
    async with open_file(settings) as service:
        yield replace(service, identity=identity_of(keys))

print(keys.token(UUID(sys.argv[1])), flush=True)
raise SystemExit(run_service("file", FileSettings, open_with_our_keys))
"""


@pytest.mark.slow
async def test_a_process_that_is_stopped_right_after_an_upload_ends_in_order(
    kept: Kept, database_url: str, as_user: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        (port,) = free_ports(1)
        for name, value in {
            "DATABASE_URL": database_url,
            "DATA_DIR": str(tmp_path),
            "FILE_STORE_URL": kept.url,
            "FILE_PORT": str(port),
            "FILE_PART_BYTES": str(PART),
        }.items():
            monkeypatch.setenv(f"PARLEY_{name}", value)
        process = python("-c", SERVED, str(as_user.id("ann")))
        try:
            assert process.stdout is not None
            ann = bearer((await asyncio.to_thread(process.stdout.readline)).strip())
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                requests = iter(whole(some_bytes(3 * PART)))
                call = FileServiceStub(channel).UploadFile(
                    requests, metadata=ann, timeout=DEADLINE, wait_for_ready=True
                )
                assert (await call).file.size_bytes == 3 * PART
                process.send_signal(signal.SIGTERM)
                said, _ = await asyncio.to_thread(process.communicate, timeout=DEADLINE)
            assert process.returncode == 0, said
        finally:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_process_that_has_used_an_object_store_ends_in_order() -> None:
    # obstore's runtime aborts many a process that ends soon after an asynchronous call: hence its synchronous ones.
    program = """
import asyncio
from services.file.models import Part
from services.file.store import open_parts

async def main():
    async with open_parts("memory:///", threads=2) as store:
        part = Part(0, 5, 0xC9A3E0BF, store.new_key())
        await store.put(part, [b"he", b"llo"], lambda piece: None)
        await store.delete([part.key])

asyncio.run(main())
"""
    for _ in range(4):
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
