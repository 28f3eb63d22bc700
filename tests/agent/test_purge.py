"""A user who is removed for good: none of its agents is left, and all of the others'."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from parley.agent.v1 import agent_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from services.agent.wiring import open_agent_jobs
from services.kit.database import Database
from services.kit.settings import DatabaseSettings
from tests.agent.conftest import Create


async def test_all_agents_of_the_user_go_and_no_others(
    agents: AgentServiceStub,
    create: Create,
    as_user: Any,
    database: Database,
    settings: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.agent.domain.purge.AGENTS_AT_A_TIME", 2)
    ann, bob = as_user("ann"), as_user("bob")
    theirs = [await create(ann) for _ in range(5)]
    await agents.DeleteAgent(pb2.DeleteAgentRequest(id=theirs[0].id), metadata=ann)
    kept = await create(bob)
    async with open_agent_jobs(settings(DatabaseSettings)) as (job, _):
        for _ in range(2):
            await job.run(user_id=str(as_user.id("ann")))
    async with database.read() as tx:
        left = (await tx.execute(text("SELECT id FROM agent.agents"))).scalars().all()
    assert [str(agent_id) for agent_id in left] == [kept.id]
