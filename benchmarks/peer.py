"""The FastAPI peer, started over the tables and tokens of a world."""

import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.agent_calls import bearer
from benchmarks.load import Target
from benchmarks.measure import progress
from benchmarks.processes import Server, free_port, is_listening
from benchmarks.world import POOL_SIZE, World
from services.kit.database import sqlalchemy_url


@dataclass(frozen=True)
class Peer:
    """It runs."""

    server: Server
    url: str

    def target(self, path: str, token: str, *, body: bytes | None = None, varies: int = 0) -> Target:
        """The same request over and over; what a right answer looks like is found out by making it once."""
        url, headers = self.url + path, {"authorization": bearer(token)}
        if body is not None:
            headers["content-type"] = "application/json"
        return Target(url, headers, len(fetched(url, headers, body)), body=body, varies=varies)


@contextmanager
def open_peer(world: World, *, logs: bool, max_agents: int = 1000) -> Iterator[Peer]:
    """One process of it, for the time of the block."""
    progress("starting the FastAPI peer")
    port = free_port()
    arguments = ["-m", "uvicorn", "benchmarks.peers.fastapi_agents:app", "--host=127.0.0.1", f"--port={port}"]
    arguments += ["--loop=uvloop", "--http=httptools", "--ws=none"]
    arguments += [] if logs else ["--no-access-log", "--log-level=warning"]
    environment = {
        "PEER_DATABASE_URL": sqlalchemy_url(world.database_url).render_as_string(hide_password=False),
        "PEER_POOL_SIZE": str(POOL_SIZE),
        "PEER_PUBLIC_KEY": world.public_key,
        "PEER_ISSUER": "parley",
        "PEER_AUDIENCE": "parley",
        "PEER_MAX_AGENTS": str(max_agents),
    }
    with Server.run("fastapi", arguments, environment, world.folder) as server:
        server.wait_until(lambda: is_listening(port))
        yield Peer(server, f"http://127.0.0.1:{port}")


def fetched(url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """What the peer answers. Raises urllib.error.HTTPError."""
    request = urllib.request.Request(url, body, dict(headers))
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: bytes = response.read()
        return answer
