"""What the scenarios of files need: the file service, the FastAPI peer and the limit, each in one process."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import grpc
import psycopg

from benchmarks.agent_calls import CALL_SECONDS
from benchmarks.measure import progress
from benchmarks.processes import Server, free_port, is_listening
from benchmarks.world import POOL_SIZE, auth_environment, running_service, sign_up
from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.cli.embedded_postgres import EmbeddedPostgres
from services.kit.database import libpq_url, sqlalchemy_url
from services.migrations import migrate

MIB = 2**20
# Limits that are looked at, and not reached.
MAX_FILE_BYTES = 4096 * MIB
MAX_TRANSFERS = 256


@dataclass(frozen=True)
class Storing:
    """A server of files."""

    server: Server
    address: str
    folder: Path
    """Where it keeps their bytes."""


@dataclass(frozen=True)
class FileWorld:
    """Servers that run, and a user of theirs."""

    database_url: str
    access_token: str
    content: Path
    """A file of random bytes, as large as all that is uploaded at a time."""
    parley: Storing
    peer: Storing
    limit: Storing

    def remove_files(self, storing: Storing) -> None:
        """Let a server have no file, as at the beginning."""
        for path in storing.folder.rglob("*"):
            if path.is_file():
                path.unlink()
        with psycopg.connect(libpq_url(self.database_url), autocommit=True) as connection:
            tables = {id(self.parley): "file.files, file.parts, file.uploads, file.usage", id(self.peer): "peer_files"}
            if id(storing) in tables:
                connection.execute(f"TRUNCATE {tables[id(storing)]}")


@contextmanager
def open_file_world(*, content_bytes: int, records: bool) -> Iterator[FileWorld]:
    """All of it for the time of the block, in a temporary folder. Nothing listens beyond the loopback interface.

    `records` says whether the peer checks tokens and keeps whose files it has.
    """
    with TemporaryDirectory(prefix="parley-benchmarks-") as name, ExitStack() as stack:
        folder = Path(name)
        content = folder / "content"
        _write_random(content, content_bytes)
        progress("starting PostgreSQL")
        postgres = stack.enter_context(EmbeddedPostgres.start(folder / "data", report=progress))
        migrate(postgres.url)
        auth_port, file_port = free_port(), free_port()
        environment = auth_environment(postgres.url, folder, auth_port) | {
            "PARLEY_FILE_PORT": str(file_port),
            "PARLEY_FILE_MAX_BYTES": str(MAX_FILE_BYTES),
            "PARLEY_FILE_MAX_UPLOADS": str(MAX_TRANSFERS),
            "PARLEY_FILE_MAX_UPLOADS_PER_USER": str(MAX_TRANSFERS),
            "PARLEY_FILE_MAX_DOWNLOADS": str(MAX_TRANSFERS),
            "PARLEY_FILE_MAX_DOWNLOADS_PER_USER": str(MAX_TRANSFERS),
        }
        stack.enter_context(running_service("auth", auth_port, environment, folder))
        server = stack.enter_context(running_service("file", file_port, environment, folder))
        token, public_key = asyncio.run(_populate(f"127.0.0.1:{auth_port}"))
        yield FileWorld(
            database_url=postgres.url,
            access_token=token,
            content=content,
            parley=Storing(server, f"127.0.0.1:{file_port}", folder / "data" / "files"),
            peer=stack.enter_context(_peer(folder, postgres.url, public_key, records=records)),
            limit=stack.enter_context(_limit(folder)),
        )


@contextmanager
def _peer(folder: Path, database_url: str, public_key: str, *, records: bool) -> Iterator[Storing]:
    progress("starting the FastAPI peer")
    port, stored = free_port(), folder / "peer"
    stored.mkdir()
    arguments = ["-m", "uvicorn", "benchmarks.peers.fastapi_files:app", "--host=127.0.0.1", f"--port={port}"]
    arguments += ["--loop=uvloop", "--http=httptools", "--ws=none"]
    environment = {
        "PEER_DATABASE_URL": sqlalchemy_url(database_url).render_as_string(hide_password=False),
        "PEER_POOL_SIZE": str(POOL_SIZE),
        "PEER_PUBLIC_KEY": public_key,
        "PEER_ISSUER": "parley",
        "PEER_AUDIENCE": "parley",
        "PEER_FOLDER": str(stored),
        "PEER_RECORDS": str(records),
    }
    with Server.run("fastapi", arguments, environment, folder) as server:
        server.wait_until(lambda: is_listening(port))
        yield Storing(server, f"127.0.0.1:{port}", stored)


@contextmanager
def _limit(folder: Path) -> Iterator[Storing]:
    port, stored = free_port(), folder / "limit"
    stored.mkdir()
    with Server.run("limit", ["-m", "benchmarks.peers.plain_files", str(port), str(stored)], {}, folder) as server:
        server.wait_until(lambda: is_listening(port))
        yield Storing(server, f"127.0.0.1:{port}", stored)


async def _populate(auth_address: str) -> tuple[str, str]:
    """A user's token, and the key that verifies it."""
    async with grpc.aio.insecure_channel(auth_address) as channel:
        auth = AuthServiceStub(channel)
        token = await sign_up(auth)
        keys = await auth.GetJwks(auth_pb2.GetJwksRequest(), timeout=CALL_SECONDS)
    return token, keys.keys[0].x


def _write_random(path: Path, size: int) -> None:
    random = Random(1)
    with path.open("wb") as file:
        for at in range(0, size, MIB):
            file.write(random.randbytes(min(MIB, size - at)))
