"""What statements about many executions promise to each other."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg

from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.repository.executions import ExecutionRows
from services.agent.repository.queue import QueueRows
from services.kit.database import Database, libpq_url
from services.kit.pages import PageRequest
from tests.agent.conftest import Create
from tests.agent.runs import run

COPIES = """
INSERT INTO agent.executions
SELECT (jsonb_populate_record(e, jsonb_build_object(
    'id', gen_random_uuid(), 'request_id', NULL, 'state', 'RUNNING', 'attempt', 1, 'last_sequence', 1,
    'lease_expire_time', now() + interval '1 hour'))).*
FROM agent.executions e, generate_series(1, 300)
"""


async def test_a_list_leaves_large_outputs_where_they_are(
    executions: ExecutionServiceStub, create: Create, as_user: Any, database: Database
) -> None:
    ann = as_user("ann")
    await run(executions, ann, agent_id=(await create(ann)).id, input="said")
    async with database.read() as tx:
        page = await ExecutionRows(tx).list_newest_first(
            as_user.id("ann"), PageRequest(size=10, skip=0, after=None), []
        )
    assert [(listed.input, listed.output) for listed in page.items] == [("said", "")]


async def test_those_who_say_that_executions_are_watched_and_that_they_live_do_not_wait_in_a_circle(
    executions: ExecutionServiceStub, create: Create, as_user: Any, database: Database, database_url: str
) -> None:
    ann = as_user("ann")
    await run(executions, ann, agent_id=(await create(ann)).id, input="x")
    async with await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as connection:
        await connection.execute(COPIES)
        found = await connection.execute("SELECT id FROM agent.executions WHERE state = 'RUNNING'")
        ids: list[UUID] = [row[0] for row in await found.fetchall()]

    async def watch() -> None:
        for _ in range(60):
            async with database.read() as tx:
                await ExecutionRows(tx).renew_watches(ids, timedelta(seconds=10))

    async def live() -> None:
        for _ in range(60):
            async with database.read() as tx:
                await QueueRows(tx).renew([(id_, 1) for id_ in ids], timedelta(hours=1))

    await asyncio.gather(watch(), watch(), live(), live())
