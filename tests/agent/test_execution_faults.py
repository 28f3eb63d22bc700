"""What becomes of executions when the processes that run them die, stop or are told to go."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest

from parley.agent.v1 import agent_service_pb2 as agent_pb2
from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.kit.database import libpq_url
from tests.agent.conftest import draft
from tests.agent.runs import Transcript, get, watch, watching
from tests.auth.suite import eventually, sign_up, start
from tests.service_process import ServiceProcess, channel_to, service_process
from tests.support import Metadata, until

pytestmark = pytest.mark.slow

RUNS = 20
WORDS = 150
SAID = " ".join(f"word{n}" for n in range(WORDS))
DELAY_MS = 20
SOON = {"PARLEY_AGENT_LEASE_SECONDS": "3", "PARLEY_AGENT_HEARTBEAT_SECONDS": "0.6"}


class Scene:
    """Auth in this process, agents as processes of their own, and a user with an agent."""

    def __init__(self, stack: AsyncExitStack, database_url: str, folder: Path, auth_address: str) -> None:
        self._stack = stack
        self._url = database_url
        self._folder = folder
        self._auth_address = auth_address
        self.metadata: Metadata = ()
        self.agent_id = ""

    async def serve(self, name: str, **settings: str) -> tuple[ServiceProcess, ExecutionServiceStub]:
        """Another process of the agent service, ready."""
        process = self._stack.enter_context(
            service_process("agent", self._url, self._folder, name, auth_address=self._auth_address, **settings)
        )
        channel = await self._stack.enter_async_context(channel_to(process.address))
        await process.until_serving()
        if not self.agent_id:
            request = draft(config={"echo": {"delay_ms": DELAY_MS}})
            self.agent_id = (await AgentServiceStub(channel).CreateAgent(request, metadata=self.metadata)).agent.id
        return process, ExecutionServiceStub(channel)

    async def create(self, executions: ExecutionServiceStub, **fields: Any) -> str:
        """A new execution; its id."""
        request = pb2.CreateExecutionRequest(**{"agent_id": self.agent_id, "input": SAID, **fields})
        return (await executions.CreateExecution(request, metadata=self.metadata, timeout=20)).execution.id

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What the database says."""
        with psycopg.connect(libpq_url(self._url)) as connection:
            return connection.execute(statement.encode(), values).fetchall()


@pytest.fixture
async def scene(database_url: str, tmp_path: Path, settings: Any) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        auth = await start(stack, open_auth, settings(AuthSettings, auth_target=""))
        scene = Scene(stack, database_url, tmp_path, auth.address)
        scene.metadata = (await sign_up(AuthServiceStub(auth.channel))).metadata
        yield scene


async def until_all_run(scene: Scene, ids: list[str], *, attempt: int = 1) -> None:
    async def running() -> bool:
        found = scene.rows(
            "SELECT count(*) FROM agent.executions WHERE id = ANY(%s::uuid[]) AND state = 'RUNNING' AND attempt = %s"
            " AND appended > 2",
            ids,
            attempt,
        )
        return bool(found[0][0] == len(ids))

    await eventually(running)


async def test_what_a_killed_process_was_running_is_run_again_and_said_once(scene: Scene) -> None:
    doomed, on_doomed = await scene.serve("doomed")
    other, on_other = await scene.serve("other")
    other.signal(signal.SIGSTOP)  # So that the doomed one has them all.
    ids = [await scene.create(on_doomed) for _ in range(RUNS)]
    seen = {id_: Transcript() for id_ in ids}
    await until_all_run(scene, ids)

    async def look(id_: str) -> None:
        async with watching(on_doomed, id_, scene.metadata) as call:
            async for response in call:
                seen[id_].take(response)

    looking = [asyncio.create_task(look(id_)) for id_ in ids]
    await until(lambda: all(transcript.output for transcript in seen.values()))
    doomed.kill()
    killed_at = monotonic()
    other.signal(signal.SIGCONT)
    for ended in await asyncio.gather(*looking, return_exceptions=True):
        assert isinstance(ended, grpc.aio.AioRpcError)
        assert ended.code() == grpc.StatusCode.UNAVAILABLE
    # Who watched goes on at the other process, where it left off.
    async with asyncio.timeout(60):
        await asyncio.gather(*(watch(on_other, id_, scene.metadata, seen[id_]) for id_ in ids))
    assert monotonic() - killed_at < 60
    for id_ in ids:
        kept = await get(on_other, id_, scene.metadata)
        assert (kept.state, kept.attempt) == (pb2.EXECUTION_STATE_SUCCEEDED, 2)
        assert kept.output == SAID == seen[id_].text
        assert seen[id_].states == ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "SUCCEEDED"]


async def test_a_process_that_lost_its_lease_writes_nothing_more_and_lives_on(scene: Scene) -> None:
    frozen, on_frozen = await scene.serve("frozen", **SOON)
    other, on_other = await scene.serve("other", **SOON)
    other.signal(signal.SIGSTOP)  # So that the one to be frozen has it; a start may take longer than the run.
    id_ = await scene.create(on_frozen)
    await until_all_run(scene, [id_])
    frozen.signal(signal.SIGSTOP)
    other.signal(signal.SIGCONT)
    await until_all_run(scene, [id_], attempt=2)
    frozen.signal(signal.SIGCONT)
    told = await watch(on_other, id_, scene.metadata)
    assert told.states == ["QUEUED", "RUNNING", "QUEUED", "RUNNING", "SUCCEEDED"]
    assert told.text == SAID
    second = scene.rows("SELECT min(sequence) FROM agent.execution_events WHERE execution_id = %s AND attempt = 2", id_)
    late = "SELECT count(*) FROM agent.execution_events WHERE execution_id = %s AND attempt = 1 AND sequence > %s"
    assert scene.rows(late, id_, second[0][0]) == [(0,)]
    again = await scene.create(on_frozen, input="still here")
    assert (await watch(on_frozen, again, scene.metadata)).text == "still here"


async def test_two_processes_make_one_execution_of_one_request_id(scene: Scene) -> None:
    _, on_one = await scene.serve("one")
    _, on_other = await scene.serve("other")
    for _ in range(10):
        request_id = str(uuid4())
        ids = await asyncio.gather(
            *(scene.create(at, request_id=request_id, input="once") for at in (on_one, on_other) * 3)
        )
        assert len(set(ids)) == 1
    assert scene.rows("SELECT count(*), count(DISTINCT request_id) FROM agent.executions") == [(10, 10)]


async def test_a_process_that_is_told_to_go_hands_on_at_once_what_it_was_running(scene: Scene) -> None:
    going, on_going = await scene.serve("going")
    other, on_other = await scene.serve("other")
    other.signal(signal.SIGSTOP)  # So that the going one has them all; a start may take longer than the runs.
    ids = [await scene.create(on_going) for _ in range(5)]
    await until_all_run(scene, ids)
    other.signal(signal.SIGCONT)
    started = monotonic()
    assert await asyncio.to_thread(going.stop) == 0
    assert monotonic() - started < 5
    await until_all_run(scene, ids, attempt=2)
    assert monotonic() - started < 8, "sooner than its leases would have ended"
    for id_ in ids:
        assert (await watch(on_other, id_, scene.metadata)).text == SAID


async def test_an_agent_that_was_deleted_is_not_run_again(scene: Scene) -> None:
    doomed, on_doomed = await scene.serve("doomed", **SOON)
    id_ = await scene.create(on_doomed)
    await until_all_run(scene, [id_])
    doomed.kill()
    other, on_other = await scene.serve("other", **SOON)
    async with channel_to(other.address) as channel:
        await AgentServiceStub(channel).DeleteAgent(
            agent_pb2.DeleteAgentRequest(id=scene.agent_id), metadata=scene.metadata
        )
    told = await watch(on_other, id_, scene.metadata)
    assert told.states[-1] == "CANCELLED"
