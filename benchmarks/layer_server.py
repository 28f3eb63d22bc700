"""`python -m benchmarks.layer_server <layer>`: a server of GetAgent with only some of its layers, for `layers`.

It writes `{"address": …, "token": …, "agent_id": …}` as one line to the file that PARLEY_BENCHMARK_READY names.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from parley.agent.v1 import agent_service_pb2 as pb2
from services.agent.domain.agents import Agents
from services.agent.domain.states import States
from services.agent.domain.watching import ExecutionEvents
from services.agent.mapping.agents import to_message
from services.agent.models.agents import Agent, Draft
from services.agent.settings import AgentSettings
from services.agent.wiring import AGENT_SERVICE, open_agent
from services.kit.access import Caller, TokenVerifier
from services.kit.bus import LocalBus
from services.kit.calls import Call, Registration
from services.kit.database import Database, libpq_url
from services.kit.feed import Feed, FeedLimits
from services.kit.ids import utc_now, uuid7
from services.kit.logs import configure_logging
from services.kit.messages import Decoder
from services.kit.process import run_until_signal
from services.kit.server import running, server_options
from services.kit.settings import load

LAYERS = {
    "bare": "grpc.aio alone, bytes in and out",
    "messages": "+ decode, validate, map, encode",
    "wrapper": "+ errors, drain, limits, deadline",
    "token": "+ the token, verified before",
    "verify": "+ the token, verified every time (instead)",
    "log": "+ one log line a call (token verified before)",
    "database": "+ domain and one read: the real service",
}
_LIFE = 4 * 3600


class Keys:
    """One key pair, made for this process."""

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()

    async def find(self, _kid: str) -> Ed25519PublicKey | None:
        return self._private.public_key()

    def token(self, user_id: UUID) -> str:
        now = int(utc_now().timestamp())
        claims = {"iss": "parley", "aud": "parley", "sub": str(user_id), "sid": str(uuid7()), "client_id": "benchmarks"}
        claims |= {"jti": str(uuid7()), "iat": now, "exp": now + _LIFE, "scope": ""}  # type: ignore[dict-item]  # claims are of several types
        return jwt.encode(claims, self._private, "EdDSA", headers={"typ": "at+jwt", "kid": "benchmarks"})


class NoVerifier(TokenVerifier):
    """Takes any token for the same caller's, without a look."""

    caller: Caller

    def recall(self, _token: str) -> Caller | None:
        return self.caller


class ForgetfulVerifier(TokenVerifier):
    """Verifies a token each time it comes."""

    def recall(self, _token: str) -> Caller | None:
        return None


class ConstantServicer:
    """The agent service over a single agent in memory."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def GetAgent(self, _request: pb2.GetAgentRequest, _call: Call) -> pb2.GetAgentResponse:
        return pb2.GetAgentResponse(agent=to_message(self._agent))

    def __getattr__(self, name: str) -> object:
        if name in AGENT_SERVICE.methods_by_name:
            return self.GetAgent
        raise AttributeError(name)


async def serve(layer: str, settings: AgentSettings, stop: asyncio.Event) -> None:
    keys = Keys()
    agent = await _new_agent(settings)
    async with _address(layer, settings, keys, agent) as address:
        ready = {"address": address, "token": keys.token(agent.user_id), "agent_id": str(agent.id)}
        path = Path(os.environ["PARLEY_BENCHMARK_READY"])
        path.with_suffix(".new").write_text(json.dumps(ready))
        path.with_suffix(".new").rename(path)
        await stop.wait()


@asynccontextmanager
async def _address(layer: str, settings: AgentSettings, keys: Keys, agent: Agent) -> AsyncIterator[str]:
    if layer in ("bare", "messages"):
        async with _unwrapped(layer, settings, agent) as address:
            yield address
        return
    kinds: dict[str, type[TokenVerifier]] = {"wrapper": NoVerifier, "verify": ForgetfulVerifier}
    verifier = kinds.get(layer, TokenVerifier)(keys, issuer="parley", audience="parley")
    if isinstance(verifier, NoVerifier):
        verifier.caller = Caller(agent.user_id, uuid7(), "benchmarks", frozenset(), frozenset(), 2**40)
    async with open_agent(settings) as real:
        service = replace(real, identity=replace(real.identity, verifier=verifier))
        if layer != "database":
            service = replace(service, registrations=[Registration(AGENT_SERVICE, ConstantServicer(agent))])
        async with running(service, settings, port=0) as address:
            yield address


@asynccontextmanager
async def _unwrapped(layer: str, settings: AgentSettings, agent: Agent) -> AsyncIterator[str]:
    decoder = Decoder(pb2.GetAgentRequest)
    answer = pb2.GetAgentResponse(agent=to_message(agent)).SerializeToString()

    async def bare(_raw: bytes, _context: Any) -> bytes:
        return answer

    async def messages(raw: bytes, _context: Any) -> bytes:
        decoder.decode(raw)
        return pb2.GetAgentResponse(agent=to_message(agent)).SerializeToString()

    handler: Any = grpc.unary_unary_rpc_method_handler(bare if layer == "bare" else messages)
    server = grpc.aio.server(options=server_options(settings))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(AGENT_SERVICE.full_name, {"GetAgent": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def _new_agent(settings: AgentSettings) -> Agent:
    user_id = uuid7()
    url = libpq_url(settings.database_url.get_secret_value())
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO auth.users (id, email, email_key, full_name, password_hash, create_time, update_time)"
            " VALUES (%s, %s, %s, 'Ann', '', now(), now())",
            (user_id, f"{user_id}@example.com", f"{user_id}@example.com"),
        )
    draft = Draft(
        name="Scribe",
        description="Writes down what is said in the room, and sends it to everybody who was there.",
        model_name="echo-1",
        system_prompt="You write down what is said: who said it, what was decided, and what is to be done. " * 3,
        config={"temperature": 0.2, "max_tokens": 1024, "tools": ["search", "calendar"]},
        is_active=True,
    )
    async with Database.open(settings) as db:
        bus = LocalBus()
        states = States(Feed(bus, ExecutionEvents(db), "execution", FeedLimits()), bus, clock=utc_now)
        agents = Agents(db, states, clock=utc_now, max_per_user=1, deleted_kept=timedelta(days=1))
        return await agents.create_agent(user_id, draft, None)


if __name__ == "__main__":
    agent_settings = load(AgentSettings)
    configure_logging(agent_settings, "agent")
    raise SystemExit(run_until_signal(lambda stop: serve(sys.argv[1], agent_settings, stop)))
