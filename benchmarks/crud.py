"""`crud`: GetAgent, CreateAgent and ListAgents through the whole wrapper, beside the same work in FastAPI."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from benchmarks.agent_calls import agents_target, call_agents
from benchmarks.load import Target, WrongAnswers
from benchmarks.measure import median_of, progress, run_rounds
from benchmarks.peer import Peer, fetched, open_peer
from benchmarks.processes import Server
from benchmarks.report import Contest, Contests
from benchmarks.unary import check_same
from benchmarks.world import POOL_SIZE, User, World, a_draft, open_world
from parley.agent.v1 import agent_service_pb2 as pb2
from services.kit.database import libpq_url

OURS, PEER = "parley", "fastapi"
USERS = 8
AGENTS_OF_EACH = 120
PAGE = 50
# The limit is checked, and not reached in a round.
MAX_AGENTS = 1_000_000
# Two times, of which a nanosecond's number may be a byte shorter or longer, or a JSON text without its fraction.
TIMES_VARY = 16


@dataclass(frozen=True)
class Operation:
    """What is measured: one RPC and the peer's request for the same."""

    name: str
    what: str
    goal: float
    request: Callable[[User], Message]
    path: Callable[[User], str]
    body: bytes | None = None
    varies: int = 0


_DRAFT = a_draft()
OPERATIONS = [
    Operation(
        "GetAgent",
        "one read",
        2.5,
        lambda user: pb2.GetAgentRequest(id=user.agent.id),
        lambda user: f"/agents/{user.agent.id}",
    ),
    Operation(
        "CreateAgent",
        "the limit of agents, one row and its first revision",
        2.0,
        lambda _user: _DRAFT,
        lambda _user: "/agents",
        body=json.dumps(MessageToDict(_DRAFT, preserving_proto_field_name=True)).encode(),
        varies=TIMES_VARY,
    ),
    Operation(
        "ListAgents",
        f"a page of {PAGE} and the total",
        2.0,
        lambda _user: pb2.ListAgentsRequest(page_size=PAGE),
        lambda _user: f"/agents?page_size={PAGE}",
    ),
]


def run(*, rounds: int, seconds: int, only: Sequence[str] = ()) -> Contests:
    """Measure both in turns, one operation after the other. Raises load.WrongAnswers where one does not do the work."""
    with (
        open_world(log_level="info", users=USERS, max_agents=MAX_AGENTS) as world,
        open_peer(world, logs=True, max_agents=MAX_AGENTS) as peer,
    ):
        _give_agents(world)
        chosen = [operation for operation in OPERATIONS if not only or operation.name in only]
        return Contests(
            "crud",
            [_contest(operation, world, peer, rounds=rounds, seconds=seconds) for operation in chosen],
        )


def _contest(operation: Operation, world: World, peer: Peer, *, rounds: int, seconds: int) -> Contest:
    progress(operation.name)
    contestants: dict[str, tuple[Server, Sequence[Target]]] = {
        OURS: (
            world.agent_server,
            [
                agents_target(
                    world.agent_address,
                    user.access_token,
                    operation.name,
                    operation.request(user),
                    varies=operation.varies,
                )
                for user in world.users
            ],
        ),
        PEER: (
            peer.server,
            [
                peer.target(operation.path(user), user.access_token, body=operation.body, varies=operation.varies)
                for user in world.users
            ],
        ),
    }
    _check(operation, world, peer)
    figures = run_rounds(contestants, rounds=rounds, seconds=seconds, before=lambda: _remove_new(world))
    _check(operation, world, peer)
    return Contest(
        scenario=operation.name,
        what=f"{operation.what}; token, validation, 32 in flight of {USERS} users, one process each",
        figures={name: median_of(each) for name, each in figures.items()},
        rounds=figures,
        ours=OURS,
        peer=PEER,
        goal=operation.goal,
        settings={"rounds": rounds, "seconds": seconds, "users": USERS, "pool_size": POOL_SIZE},
    )


def _check(operation: Operation, world: World, peer: Peer) -> None:
    """Whether both answer as they should. Raises load.WrongAnswers."""
    _remove_new(world)
    user = world.users[-1]
    ours = call_agents(world.agent_address, user.access_token, operation.name, operation.request(user))
    target = peer.target(operation.path(user), user.access_token, body=operation.body)
    theirs: dict[str, Any] = json.loads(fetched(target.url, target.headers, target.body))
    if operation.name == "GetAgent":
        if ours.agent != user.agent:
            raise WrongAnswers("GetAgent answered with something else than the agent")
        check_same(ours.agent, theirs)
    elif operation.name == "ListAgents":
        if len(ours.agents) != PAGE or len(theirs["agents"]) != PAGE or ours.total_size != theirs["total_size"]:
            raise WrongAnswers("a list is not of the length that was asked for, or the totals differ")
        for agent, answer in zip(ours.agents, theirs["agents"], strict=True):
            check_same(agent, answer)
    else:
        created = call_agents(
            world.agent_address, user.access_token, "GetAgent", pb2.GetAgentRequest(id=theirs["id"])
        ).agent
        check_same(created, theirs)
        if (created.name, created.config) != (ours.agent.name, ours.agent.config):
            raise WrongAnswers("the two did not create the same")


def _give_agents(world: World) -> None:
    """Every user as many agents as they are listed of."""
    with psycopg.connect(libpq_url(world.database_url), autocommit=True) as connection:
        for user in world.users:
            connection.execute(
                "INSERT INTO agent.agents (id, user_id, name, description, model_name, system_prompt, config,"
                " is_active, revision, create_time, update_time)"
                " SELECT gen_random_uuid(), user_id, name || ' ' || number, description, model_name, system_prompt,"
                " config, is_active, revision, create_time, update_time"
                " FROM agent.agents, generate_series(2, %s) number WHERE id = %s",
                (AGENTS_OF_EACH, user.agent.id),
            )
        connection.execute("CREATE TABLE public.benchmark_agents AS SELECT id FROM agent.agents")


def _remove_new(world: World) -> None:
    """What was created since: each round begins with the same."""
    with psycopg.connect(libpq_url(world.database_url), autocommit=True) as connection:
        connection.execute("DELETE FROM agent.agents WHERE id NOT IN (SELECT id FROM public.benchmark_agents)")
        connection.execute("VACUUM (ANALYZE) agent.agents, agent.revisions")
