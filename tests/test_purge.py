"""A user who is removed for good, in all services, by a real worker: nothing of it is left, and the others go on."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest

from parley.agent.v1 import agent_service_pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.auth.v1 import user_service_pb2
from parley.auth.v1.user_service_pb2_grpc import UserServiceStub
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.agent.settings import AgentJobSettings, AgentSettings
from services.agent.wiring import open_agent, open_agent_jobs
from services.auth.settings import AuthJobSettings, AuthSettings
from services.auth.wiring import open_auth, open_auth_jobs
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat, open_chat_jobs
from services.file.settings import FileJobSettings, FileSettings
from services.file.wiring import open_file, open_file_jobs
from services.kit.database import libpq_url
from services.kit.ids import uuid7
from services.kit.jobs import run_worker
from services.kit.purge import STEPS
from tests.chat.conftest import Chat
from tests.file.steps import PART, download, some_bytes, upload, whole
from tests.support import Metadata, raises_status

pytestmark = pytest.mark.slow

DEADLINE = 20.0
DATA = some_bytes(2 * PART + 100)
# What was done to the user, and which of its sessions have ended, outlives it: the latter until the tokens expire.
KEPT = {"auth.audit_events", "auth.revocations"}
LOST = "UPDATE jobs.procrastinate_workers SET last_heartbeat = now() - interval '10 minutes'"
BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"


class Tables:
    """What is in the tables of all services."""

    def __init__(self, url: str) -> None:
        self.url = libpq_url(url)

    def execute(self, statement: str, *values: Any) -> Sequence[Any]:
        options = "-c search_path=jobs,public"
        with psycopg.connect(self.url, autocommit=True, options=options) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def holding(self, text: str) -> set[str]:
        """The tables in which there is a row that holds a text."""
        tables = self.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables"
            " WHERE schemaname IN ('auth', 'agent', 'file', 'chat', 'jobs')"
        )
        return {
            table
            for (table,) in tables
            if self.execute(f"SELECT 1 FROM {table} AS row WHERE position(%s in lower(row::text)) > 0 LIMIT 1", text)
        }


@pytest.fixture
def tables(database_url: str) -> Tables:
    return Tables(database_url)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests do not wait until all services have heard of ended sessions: they write nothing for the user."""
    monkeypatch.setattr("services.kit.purge.QUIET", None)


class Suite:
    """All services, and how an administrator has a user removed."""

    def __init__(self, auth: Any, agent: Any, file: Any, chat: Any, admin: Metadata) -> None:
        self.users = UserServiceStub(auth)
        self.agents = AgentServiceStub(agent)
        self.files = FileServiceStub(file)
        self.chat = Chat(chat)
        self.admin = admin

    async def purge(self, user_id: UUID) -> None:
        request = user_service_pb2.PurgeUserRequest(user_id=str(user_id))
        await self.users.PurgeUser(request, metadata=self.admin)

    async def is_gone(self, user_id: UUID) -> bool:
        try:
            request = user_service_pb2.GetUserRequest(user_id=str(user_id))
            found = (await self.users.GetUser(request, metadata=self.admin)).user
        except grpc.aio.AioRpcError as error:
            return error.code() == grpc.StatusCode.NOT_FOUND
        assert found.state == found.STATE_PURGING, "until it is gone it stays visible"
        return False


@pytest.fixture
async def suite(serve: Any, settings: Any, as_user: Any, tables: Tables) -> Suite:
    session_id = uuid7()
    tables.execute("UPDATE auth.users SET is_admin = true WHERE id = %s", as_user.id("admin"))
    tables.execute(
        "INSERT INTO auth.sessions (id, user_id, device_label, create_time, expire_time)"
        " VALUES (%s, %s, '', now(), now() + interval '1 day')",
        session_id,
        as_user.id("admin"),
    )
    return Suite(
        await serve(open_auth, settings(AuthSettings)),
        await serve(open_agent, settings(AgentSettings)),
        await serve(open_file, settings(FileSettings, file_part_bytes=PART)),
        await serve(open_chat, settings(ChatSettings)),
        as_user("admin", scope="admin", sid=str(session_id)),
    )


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await holds():  # noqa: ASYNC110  # what it looks at is in the database
            await asyncio.sleep(0.02)


async def keep_busy(suite: Suite, who: Metadata) -> str:
    """Let a user have something of everything; the agent's request is the tests' shortest. A room of its own."""
    agent = agent_service_pb2.CreateAgentRequest(
        name="Scribe", model_name="echo-1", system_prompt="You write down what is said."
    )
    await suite.agents.CreateAgent(agent, metadata=who)
    await upload(suite.files, who, whole(DATA))
    room = await suite.chat.create_room(who)
    for name in ("1", "2", "3"):
        await suite.chat.send(room, who, name)
    return room


@asynccontextmanager
async def working(settings: Any) -> AsyncIterator[None]:
    """A worker with the jobs of all services, for the time of the block."""
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        opened = (
            open_auth_jobs(settings(AuthJobSettings)),
            open_agent_jobs(settings(AgentJobSettings)),
            open_file_jobs(settings(FileJobSettings)),
            open_chat_jobs(settings(AuthJobSettings)),
        )
        jobs = [job for opening in opened for job in await stack.enter_async_context(opening)]
        task = asyncio.create_task(run_worker(settings(AuthJobSettings), jobs, stop=stop, ready=lambda: None))
        try:
            yield
        finally:
            stop.set()
            await task


def parts(tmp_path: Path) -> int:
    return sum(path.is_file() for path in (tmp_path / "data" / "files").rglob("*"))


async def test_everything_of_the_user_goes_and_the_others_go_on(
    suite: Suite, as_user: Any, tables: Tables, settings: Any, tmp_path: Path
) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    shared = await keep_busy(suite, ann)
    await suite.chat.join(shared, bob)
    await suite.chat.send(shared, bob, "4")
    await suite.chat.send(shared, ann, "5")
    alone = await suite.chat.create_room(ann)
    bobs = await upload(suite.files, bob, whole(DATA))
    await keep_busy(suite, bob)
    for text in (str(as_user.id("ann")), "ann@example.com"):
        assert tables.holding(text)

    async with suite.chat.connect(bob, (shared, 0)) as live:
        assert live.sequences == [1, 2, 3, 4, 5]
        async with working(settings):
            await suite.purge(as_user.id("ann"))
            await eventually(lambda: suite.is_gone(as_user.id("ann")))
        async with suite.chat.connect(bob, hello=False) as again:
            await again.write(hello={})
            await again.subscribe(shared, 0)
            gaps = [await again.notice("gap") for _ in range(2)]
            assert [(gap.first_sequence, gap.last_sequence) for gap in gaps] == [(1, 3), (5, 5)]
            assert again.sequences == [4]
            await suite.chat.send(shared, bob, "6")
            assert await again.until(6) == [4, 6]
        assert await live.until(6) == [1, 2, 3, 4, 5, 6]

    assert tables.holding(str(as_user.id("ann"))) <= KEPT
    assert tables.holding("ann@example.com") == set()
    assert tables.holding(alone) == set()
    assert tables.execute("SELECT user_id, member_count FROM chat.rooms WHERE id = %s", shared) == [
        (as_user.id("bob"), 1)
    ]
    assert parts(tmp_path) == 2 * 3
    assert (await download(suite.files, bob, bobs.id))[1] == DATA
    assert (await suite.agents.ListAgents(agent_service_pb2.ListAgentsRequest(), metadata=bob)).total_size == 1
    with raises_status(grpc.StatusCode.NOT_FOUND, "ROOM_NOT_FOUND"):
        await suite.chat.join(alone, bob)
    events = tables.execute("SELECT type FROM auth.audit_events WHERE subject_id = %s ORDER BY id", as_user.id("ann"))
    assert [row[0] for row in events] == ["USER_PURGE_REQUESTED", "USER_PURGED"]


async def test_a_worker_that_is_killed_in_any_step_loses_nothing(
    suite: Suite, as_user: Any, tables: Tables, settings: Any, database_url: str, tmp_path: Path
) -> None:
    ann = as_user.id("ann")
    for _ in range(2):
        await keep_busy(suite, as_user("ann"))
    await suite.purge(ann)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    environment |= {"PARLEY_DATABASE_URL": database_url, "PARLEY_DATA_DIR": str(tmp_path / "data")}
    # Held by somebody else, each of these rows stops a step in the middle.
    for step, row in (
        (STEPS[0], "SELECT FROM chat.rooms ORDER BY id DESC LIMIT 1 FOR UPDATE"),
        (STEPS[1], "SELECT FROM file.parts ORDER BY upload_id DESC, offset_bytes LIMIT 1 FOR UPDATE"),
    ):
        with psycopg.connect(tables.url) as holder:
            holder.execute(row)
            holder_pid = holder.info.backend_pid
            command = (sys.executable, "-m", "services.cli", "worker")
            worker = await asyncio.create_subprocess_exec(*command, env=environment)
            try:

                async def blocked(pid: int = holder_pid) -> bool:
                    return bool(tables.execute(BLOCKED, pid)[0][0])

                await eventually(blocked)
            finally:
                worker.send_signal(signal.SIGKILL)
                await worker.wait()
        doing = "SELECT task_name FROM jobs.procrastinate_jobs WHERE status = 'doing' AND args ->> 'user_id' = %s"
        assert tables.execute(doing, str(ann)) == [(step,)]
        tables.execute(LOST)
    assert tables.execute("SELECT count(*) FROM chat.rooms") == [(0,)]
    assert tables.execute("SELECT count(*) FROM agent.agents") == [(2,)]
    async with working(settings):
        await eventually(lambda: suite.is_gone(ann))
    assert tables.holding(str(ann)) <= KEPT
    assert parts(tmp_path) == 0
