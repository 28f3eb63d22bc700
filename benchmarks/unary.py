"""`unary`: GetAgent through the whole wrapper, beside the same read in FastAPI."""

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.get_agent import bearer, get_agent, get_agent_target
from benchmarks.load import Target, WrongAnswers
from benchmarks.measure import median_of, progress, run_rounds
from benchmarks.processes import Server, free_port, is_listening
from benchmarks.report import Contest
from benchmarks.world import POOL_SIZE, World, open_world
from services.kit.database import sqlalchemy_url

GOAL = 1.5
OURS, PEER = "parley", "fastapi"


def run(*, rounds: int, seconds: int, logs: bool) -> Contest:
    """Measure both in turns. Raises load.WrongAnswers where one of them does not do the work."""
    with (
        open_world(log_level="info" if logs else "warning") as world,
        _peer(world, logs=logs) as (peer_server, peer_target),
    ):
        ours = get_agent_target(world.agent_address, world.access_token, world.agent.id)
        _check(world, peer_target)
        figures = run_rounds(
            {OURS: (world.agent_server, ours), PEER: (peer_server, peer_target)}, rounds=rounds, seconds=seconds
        )
        _check(world, peer_target)
    return Contest(
        scenario="unary",
        what="GetAgent: token, validation, one read from PostgreSQL, 32 in flight, one process each",
        figures={name: median_of(each) for name, each in figures.items()},
        rounds=figures,
        ours=OURS,
        peer=PEER,
        goal=GOAL,
        settings={
            "rounds": rounds,
            "seconds": seconds,
            "logs": "a line for each request, to a file" if logs else "off",
            "pool_size": POOL_SIZE,
        },
    )


@contextmanager
def _peer(world: World, *, logs: bool) -> Iterator[tuple[Server, Target]]:
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
    }
    with Server.run("fastapi", arguments, environment, world.folder) as server:
        server.wait_until(lambda: is_listening(port))
        url = f"http://127.0.0.1:{port}/agents/{world.agent.id}"
        headers = {"authorization": bearer(world.access_token)}
        yield server, Target(url, headers, answer_bytes=len(_fetched(url, headers)))


def _check(world: World, peer: Target) -> None:
    """Whether both give the agent. Raises load.WrongAnswers."""
    agent = world.agent
    if get_agent(world.agent_address, world.access_token, agent.id).agent != agent:
        raise WrongAnswers("GetAgent answered with something else than the agent")
    answer: dict[str, Any] = json.loads(_fetched(peer.url, peer.headers))
    fields = [field.name for field in agent.DESCRIPTOR.fields]
    simple = [name for name in fields if name not in ("config", "create_time", "update_time")]
    if list(answer) != fields or any(answer[name] != getattr(agent, name) for name in simple):
        raise WrongAnswers(f"the peer answered with something else than the agent: {answer}")


def _fetched(url: str, headers: Mapping[str, str]) -> bytes:
    request = urllib.request.Request(url, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=10) as response:
        body: bytes = response.read()
        return body
