"""Conversations: in which order their executions are, and how much of the earlier ones a model is told."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.kit.database import libpq_url
from services.kit.ids import uuid7
from tests.agent.conftest import Create, draft
from tests.agent.providers.script import saying
from tests.agent.providers.server import ProviderServer
from tests.agent.runs import run
from tests.auth.suite import eventually

IMAGE_BYTES = 5 * 1024 * 1024


async def test_an_execution_has_its_place_in_a_conversation_from_when_it_is_its_turn(
    executions: ExecutionServiceStub, create: Create, as_user: Any, database_url: str
) -> None:
    ann, talk = as_user("ann"), str(uuid4())
    agent = await create(ann)
    request = pb2.CreateExecutionRequest(agent_id=agent.id, input="late", conversation_id=talk)
    async with (
        await psycopg.AsyncConnection.connect(libpq_url(database_url)) as before,
        await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as looking,
    ):
        name = f"conversation:{as_user.id('ann')}:{talk}"
        await before.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
        creating = asyncio.ensure_future(executions.CreateExecution(request, metadata=ann))

        async def waits() -> bool:
            found = await looking.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            return await found.fetchone() is not None

        await eventually(waits)
        earlier = uuid7()
        await before.rollback()
    assert UUID((await creating).execution.id) > earlier


async def test_files_of_a_long_conversation_are_told_as_far_as_they_fit(
    serve: Any, settings: Any, as_user: Any, database_url: str
) -> None:
    ann, talk = as_user("ann"), str(uuid4())
    async with ProviderServer() as provider:
        given = {"agent_model_routes": "*=openai", "agent_openai_base_url": provider.openai_url}
        channel = await serve(open_agent, settings(AgentSettings, agent_port=0, **given))
        agent = (await AgentServiceStub(channel).CreateAgent(draft(), metadata=ann)).agent
        executions = ExecutionServiceStub(channel)
        provider.otherwise = saying("seen")
        for number in range(5):
            created, _ = await run(executions, ann, agent_id=agent.id, input=f"image {number}", conversation_id=talk)
            async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as connection:
                await connection.execute(
                    "INSERT INTO agent.input_files VALUES (%s, 0, %s, 'x.png', 'image/png', %s)",
                    (created.id, uuid4(), bytes(IMAGE_BYTES)),
                )
        await run(executions, ann, agent_id=agent.id, input="and now?", conversation_id=talk)
        told = [message for message in provider.requests[-1].body["messages"] if message["role"] == "user"]
    assert [_said(message) for message in told] == ["image 2", "image 3", "image 4", "and now?"]


def _said(message: Any) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
