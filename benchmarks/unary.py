"""`unary`: GetAgent through the whole wrapper, beside the same read in FastAPI."""

import json
from typing import Any

from benchmarks.agent_calls import call_agents, get_agent_target
from benchmarks.load import Target, WrongAnswers
from benchmarks.measure import median_of, run_rounds
from benchmarks.peer import fetched, open_peer
from benchmarks.report import Contest
from benchmarks.world import POOL_SIZE, User, World, open_world
from parley.agent.v1 import agent_service_pb2 as pb2

GOAL = 1.5
OURS, PEER = "parley", "fastapi"


def run(*, rounds: int, seconds: int, logs: bool) -> Contest:
    """Measure both in turns. Raises load.WrongAnswers where one of them does not do the work."""
    with (
        open_world(log_level="info" if logs else "warning") as world,
        open_peer(world, logs=logs) as peer,
    ):
        user = world.users[0]
        ours = get_agent_target(world.agent_address, user.access_token, user.agent.id)
        theirs = peer.target(f"/agents/{user.agent.id}", user.access_token)
        _check(world, user, theirs)
        figures = run_rounds(
            {OURS: (world.agent_server, [ours]), PEER: (peer.server, [theirs])}, rounds=rounds, seconds=seconds
        )
        _check(world, user, theirs)
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


def _check(world: World, user: User, peer: Target) -> None:
    """Whether both give the agent. Raises load.WrongAnswers."""
    request = pb2.GetAgentRequest(id=user.agent.id)
    if call_agents(world.agent_address, user.access_token, "GetAgent", request).agent != user.agent:
        raise WrongAnswers("GetAgent answered with something else than the agent")
    check_same(user.agent, json.loads(fetched(peer.url, peer.headers)))


def check_same(agent: pb2.Agent, answer: dict[str, Any]) -> None:
    """Whether the peer's answer is this agent. Raises load.WrongAnswers."""
    fields = [field.name for field, _ in agent.ListFields()]
    simple = [name for name in fields if name not in ("config", "create_time", "update_time")]
    if list(answer) != fields or any(answer[name] != getattr(agent, name) for name in simple):
        raise WrongAnswers(f"the peer answered with something else than the agent: {answer}")
