"""Executions that are to end when nobody watches them."""

import asyncio
from time import monotonic
from typing import Any

import psycopg
import pytest

from parley.agent.v1 import error_reason_pb2 as reasons
from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.kit.database import libpq_url
from tests.agent.conftest import draft
from tests.agent.runs import get, watch, watching
from tests.auth.suite import eventually
from tests.support import Metadata

pytestmark = pytest.mark.slow

UNWATCHED_SECONDS = 1.2
LONG = "many words that take their time to be said " * 100


class Place:
    """An agent service that is quick to give up on what nobody watches."""

    def __init__(self, channel: Any, metadata: Metadata) -> None:
        self.executions = ExecutionServiceStub(channel)
        self.agents = AgentServiceStub(channel)
        self.ann = metadata

    async def create(self, on_disconnect: Any = pb2.ON_DISCONNECT_CANCEL) -> str:
        agent = (await self.agents.CreateAgent(draft(), metadata=self.ann)).agent
        request = pb2.CreateExecutionRequest(agent_id=agent.id, input=LONG, on_disconnect=on_disconnect)
        return (await self.executions.CreateExecution(request, metadata=self.ann)).execution.id

    async def create_waiting(self) -> str:
        """One that waits for another of its conversation."""
        agent = (await self.agents.CreateAgent(draft(), metadata=self.ann)).agent
        talk = "01900000-0000-7000-8000-000000000002"
        first = pb2.CreateExecutionRequest(agent_id=agent.id, input=LONG, conversation_id=talk)
        await self.executions.CreateExecution(first, metadata=self.ann)
        second = pb2.CreateExecutionRequest(
            agent_id=agent.id,
            input="next",
            conversation_id=talk,
            overlap=pb2.OVERLAP_QUEUE,
            on_disconnect=pb2.ON_DISCONNECT_CANCEL,
        )
        return (await self.executions.CreateExecution(second, metadata=self.ann)).execution.id

    async def state_of(self, id_: str) -> Any:
        return (await get(self.executions, id_, self.ann)).state


@pytest.fixture
async def place(serve: Any, settings: Any, as_user: Any) -> Place:
    given = {"agent_unwatched_seconds": UNWATCHED_SECONDS, "agent_heartbeat_seconds": 0.2, "agent_lease_seconds": 5}
    return Place(await serve(open_agent, settings(AgentSettings, agent_port=0, **given)), as_user("ann"))


async def test_what_nobody_watches_is_cancelled_with_the_reason(place: Place) -> None:
    id_ = await place.create()
    async with watching(place.executions, id_, place.ann) as call:
        await call.read()
        await asyncio.sleep(UNWATCHED_SECONDS * 2)
        assert await place.state_of(id_) == pb2.EXECUTION_STATE_RUNNING, "it is watched"
    left_at = monotonic()
    while await place.state_of(id_) == pb2.EXECUTION_STATE_RUNNING:
        assert monotonic() - left_at < UNWATCHED_SECONDS + 2
        await asyncio.sleep(0.05)
    await watch(place.executions, id_, place.ann)
    kept = await get(place.executions, id_, place.ann)
    assert kept.state == pb2.EXECUTION_STATE_CANCELLED
    assert kept.failure.reason == reasons.ERROR_REASON_ABANDONED
    assert kept.output


async def test_who_comes_back_in_time_keeps_it_going(place: Place) -> None:
    id_ = await place.create()
    ends_at = monotonic() + 3 * UNWATCHED_SECONDS
    while monotonic() < ends_at:
        async with watching(place.executions, id_, place.ann) as call:
            await call.read()
        await asyncio.sleep(UNWATCHED_SECONDS / 3)
    assert await place.state_of(id_) == pb2.EXECUTION_STATE_RUNNING


async def test_who_leaves_has_the_whole_time_to_come_back_whenever_it_is(place: Place, database_url: str) -> None:
    id_ = await place.create()
    left = []
    async with (
        watching(place.executions, id_, place.ann) as call,
        await psycopg.AsyncConnection.connect(libpq_url(database_url), autocommit=True) as connection,
    ):
        await call.read()
        await call.read()
        looks_until = monotonic() + UNWATCHED_SECONDS
        while monotonic() < looks_until:
            rows = await connection.execute(
                "SELECT extract(epoch FROM watch_expire_time - clock_timestamp()) FROM agent.executions"
            )
            found = await rows.fetchone()
            assert found is not None
            left.append(float(found[0]))
            await asyncio.sleep(0.02)
    assert min(left) >= UNWATCHED_SECONDS


async def test_who_comes_back_at_the_last_moment_is_in_time(place: Place, database_url: str) -> None:
    id_ = await place.create_waiting()
    url = libpq_url(database_url)
    async with (
        await psycopg.AsyncConnection.connect(url) as returning,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as looking,
    ):
        await returning.execute("SELECT FROM agent.executions WHERE id = %s FOR UPDATE", (id_,))

        async def is_being_cancelled() -> bool:
            found = await looking.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return await found.fetchone() is not None

        await eventually(is_being_cancelled)
        await returning.execute(
            "UPDATE agent.executions SET watch_expire_time = now() + interval '1 minute' WHERE id = %s", (id_,)
        )
        await returning.commit()
    await asyncio.sleep(1)
    assert await place.state_of(id_) == pb2.EXECUTION_STATE_QUEUED


async def test_others_go_on_though_nobody_watches(place: Place) -> None:
    id_ = await place.create(pb2.ON_DISCONNECT_UNSPECIFIED)
    await asyncio.sleep(UNWATCHED_SECONDS * 2)
    assert await place.state_of(id_) == pb2.EXECUTION_STATE_RUNNING


async def test_what_waits_is_given_up_as_well(place: Place) -> None:
    id_ = await place.create_waiting()
    await asyncio.sleep(UNWATCHED_SECONDS + 1)
    kept = await get(place.executions, id_, place.ann)
    assert kept.state == pb2.EXECUTION_STATE_CANCELLED
    assert kept.failure.reason == reasons.ERROR_REASON_ABANDONED
