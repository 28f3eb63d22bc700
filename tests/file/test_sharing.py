"""Files that others than their owner read: members of rooms that they were posted to, and users of executions."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import grpc
import pytest
from sqlalchemy import text

from parley.agent.v1 import execution_service_pb2 as agent_pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from parley.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.auth.settings import AuthSettings
from services.auth.wiring import open_auth
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.file import owners
from services.file.domain import readers
from services.file.owners import RemoteOwners
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.database import Database
from tests.agent.conftest import draft
from tests.auth.suite import outcome, sign_up, start
from tests.chat.conftest import Chat
from tests.cli.test_demo import free_ports
from tests.conftest import Serve
from tests.file.steps import download, eventually, list_ids, upload, whole
from tests.sharing import Sharing
from tests.support import Metadata, TestKeys, raises_status

NOT_FOUND = grpc.StatusCode.NOT_FOUND
READABLE, HIDDEN, UNKNOWN = "OK", "FILE_NOT_FOUND", "DEPENDENCY_UNAVAILABLE"


@pytest.fixture
async def sharing(serve: Serve, settings: Any, keys: TestKeys) -> Sharing:
    """All services."""
    return await Sharing(serve, settings, keys).start("auth", "file", "chat", "agent")


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[UUID, UUID]]:
    """The pairs of user and file that chat and agent were asked about; each answer takes a moment."""
    asked: list[tuple[UUID, UUID]] = []
    ask = RemoteOwners.may_read

    async def counted(others: RemoteOwners, user_id: UUID, file_id: UUID) -> bool:
        asked.append((user_id, file_id))
        await asyncio.sleep(0.05)
        return await ask(others, user_id, file_id)

    monkeypatch.setattr(RemoteOwners, "may_read", counted)
    return asked


async def give_as_input(agents: Any, executions: Any, database: Database, who: Metadata, file_id: str) -> None:
    """Let a user have an execution that this file, which is another's, is an input of."""
    agent_id = (await agents.CreateAgent(draft(), metadata=who)).agent.id
    request = agent_pb2.CreateExecutionRequest(agent_id=agent_id, input="Look:")
    execution = (await executions.CreateExecution(request, metadata=who)).execution
    async with database.transaction() as tx:
        await tx.execute(
            text("INSERT INTO agent.input_files VALUES (:execution, 0, :file, 'a', 'text/plain', '')"),
            {"execution": execution.id, "file": file_id},
        )


async def test_who_is_in_a_room_reads_the_files_that_were_posted_there_and_nobody_else(
    sharing: Sharing, as_user: Any
) -> None:
    ann, bob, carol = as_user("ann"), as_user("bob"), as_user("carol")
    room = await sharing.chat.room_of(ann, bob)
    await sharing.chat.room_of(ann, carol)
    shared, kept = await sharing.upload(ann, b"for all"), await sharing.upload(ann, b"for me")
    await sharing.post(room, ann, shared)
    file, content = await download(sharing.files, bob, shared)
    assert (file.user_id, content) == (str(as_user.id("ann")), b"for all")
    assert (await download(sharing.files, bob, shared, offset=4))[1] == b"all"
    assert await sharing.reading(bob, shared) == READABLE
    assert await sharing.reading(bob, kept) == HIDDEN
    # Whoever is signed in may join the room, but has to.
    assert await sharing.reading(carol, shared) == HIDDEN
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):  # and not RANGE_INVALID
        await download(sharing.files, carol, shared, offset=1000)
    assert [await sharing.reading(ann, file_id) for file_id in (shared, kept)] == [READABLE] * 2


async def test_reading_begins_and_ends_with_the_membership(
    sharing: Sharing, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "YES_SECONDS", 0.3)
    ann, bob = as_user("ann"), as_user("bob")
    room = await sharing.chat.room_of(ann)
    file_id = await sharing.upload(ann)
    await sharing.post(room, ann, file_id)
    assert await sharing.reading(bob, file_id) == HIDDEN
    await sharing.chat.join(room, bob)
    await eventually(lambda: comes_to(READABLE, sharing, bob, file_id))
    await sharing.chat.leave(room, bob)
    await eventually(lambda: comes_to(HIDDEN, sharing, bob, file_id))


async def comes_to(wanted: str, sharing: Sharing, who: Metadata, file_id: str) -> bool:
    return await sharing.getting(who, file_id) == wanted


async def test_what_is_shared_can_be_read_and_nothing_else_be_done_with_it(sharing: Sharing, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await sharing.chat.room_of(ann, bob)
    file_id = await sharing.upload(ann)
    await sharing.post(room, ann, file_id)
    assert await list_ids(sharing.files, bob) == []
    with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
        await sharing.delete(bob, file_id)
    assert await sharing.reading(ann, file_id) == READABLE


async def test_a_file_that_its_owner_deletes_is_gone_for_all_at_once(sharing: Sharing, as_user: Any) -> None:
    ann, bob = as_user("ann"), as_user("bob")
    room = await sharing.chat.room_of(ann, bob)
    file_id = await sharing.upload(ann)
    await sharing.post(room, ann, file_id)
    assert await sharing.reading(bob, file_id) == READABLE
    await sharing.delete(ann, file_id)
    assert [await sharing.reading(who, file_id) for who in (ann, bob)] == [HIDDEN] * 2


async def test_the_user_of_an_execution_reads_the_files_that_it_was_given(
    sharing: Sharing, as_user: Any, database: Database
) -> None:
    ann, bob, carol = as_user("ann"), as_user("bob"), as_user("carol")
    file_id, other = await sharing.upload(ann), await sharing.upload(ann)
    await give_as_input(sharing.agents, sharing.executions, database, bob, file_id)
    assert await sharing.reading(bob, file_id) == READABLE
    assert await sharing.reading(bob, other) == HIDDEN
    assert await sharing.reading(carol, file_id) == HIDDEN


@pytest.mark.parametrize("here", ["chat", "agent"])
async def test_while_one_of_the_others_is_away_nobody_is_told_that_there_is_no_file(
    serve: Serve, settings: Any, keys: TestKeys, as_user: Any, here: str
) -> None:
    sharing = await Sharing(serve, settings, keys).start("auth", "file", here)
    ann, bob = as_user("ann"), as_user("bob")
    file_id = await sharing.upload(ann)
    assert await sharing.reading(ann, file_id) == READABLE
    assert await sharing.reading(bob, file_id) == UNKNOWN
    await sharing.start(*{"chat", "agent"} - {here})
    # The failure is not remembered.
    await eventually(lambda: comes_to(HIDDEN, sharing, bob, file_id))


async def test_one_yes_is_enough_while_the_other_is_away(
    serve: Serve, settings: Any, keys: TestKeys, as_user: Any, database: Database
) -> None:
    sharing = await Sharing(serve, settings, keys).start("auth", "file", "agent")
    bob, file_id = as_user("bob"), await sharing.upload(as_user("ann"))
    await give_as_input(sharing.agents, sharing.executions, database, bob, file_id)
    assert await sharing.reading(bob, file_id) == READABLE


async def test_without_a_token_of_its_own_the_file_service_serves_owners(
    serve: Serve, settings: Any, keys: TestKeys, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owners, "ASK_SECONDS", 0.3)
    sharing = await Sharing(serve, settings, keys).start("file", "chat", "agent")
    file_id = await sharing.upload(as_user("ann"))
    assert await sharing.reading(as_user("ann"), file_id) == READABLE
    with raises_status(grpc.StatusCode.UNAVAILABLE, UNKNOWN):
        await sharing.files.GetFile(pb2.GetFileRequest(id=file_id), metadata=as_user("bob"))


async def test_fifty_downloads_at_once_ask_once_and_owners_are_not_asked_about(
    sharing: Sharing, as_user: Any, questions: list[tuple[UUID, UUID]]
) -> None:
    ann, bob, carol = as_user("ann"), as_user("bob"), as_user("carol")
    room = await sharing.chat.room_of(ann, bob)
    file_id = await sharing.upload(ann)
    await sharing.post(room, ann, file_id)
    downloads = await asyncio.gather(*(download(sharing.files, bob, file_id) for _ in range(50)))
    assert {content for _, content in downloads} == {b"hello"}
    assert await sharing.reading(bob, file_id) == READABLE
    refused = await asyncio.gather(
        *(sharing.files.GetFile(pb2.GetFileRequest(id=file_id), metadata=carol) for _ in range(50)),
        return_exceptions=True,
    )
    assert {error.code() for error in refused if isinstance(error, grpc.aio.AioRpcError)} == {NOT_FOUND}
    assert len(refused) == 50
    assert await sharing.reading(ann, file_id) == READABLE
    assert questions == [(as_user.id("bob"), UUID(file_id)), (as_user.id("carol"), UUID(file_id))]


async def test_nobody_is_asked_about_a_file_that_is_not_there(
    sharing: Sharing, as_user: Any, questions: list[tuple[UUID, UUID]]
) -> None:
    deleted = await sharing.upload(as_user("ann"))
    await sharing.delete(as_user("ann"), deleted)
    for file_id in (deleted, "00000000-0000-7000-8000-000000000000"):
        assert await sharing.reading(as_user("bob"), file_id) == HIDDEN
    assert questions == []


async def test_the_file_service_may_ask_the_others_with_the_account_that_auth_gives_it(settings: Any) -> None:
    names = ("auth", "agent", "file", "chat")
    ports = dict(zip(names, free_ports(4), strict=True))
    own: dict[str, Any] = {f"{name}_target": f"127.0.0.1:{port}" for name, port in ports.items()}
    own |= {"database_pool_size": 4, "drain_seconds": 0.5}
    async with AsyncExitStack() as stack:
        auth = await start(stack, open_auth, settings(AuthSettings, **own), port=ports["auth"])
        agent, file, chat = await asyncio.gather(
            start(stack, open_agent, settings(AgentSettings, **own), port=ports["agent"]),
            start(stack, open_file, settings(FileSettings, **own), port=ports["file"]),
            start(stack, open_chat, settings(ChatSettings, **own), port=ports["chat"]),
        )
        ann = (await sign_up(AuthServiceStub(auth.channel), "ann@example.com")).metadata
        bob = (await sign_up(AuthServiceStub(auth.channel), "bob@example.com")).metadata
        files, rooms = FileServiceStub(file.channel), Chat(chat.channel)
        file_id = (await upload(files, ann, whole(b"hello"))).id
        with raises_status(NOT_FOUND, "FILE_NOT_FOUND"):
            await download(files, bob, file_id)
        room = await rooms.room_of(ann, bob)
        await rooms.send(room, ann, "1", file_ids=[file_id])
        await eventually(lambda: downloads(files, bob, file_id))
        agents, executions = AgentServiceStub(agent.channel), ExecutionServiceStub(agent.channel)
        agent_id = (await agents.CreateAgent(draft(), metadata=bob)).agent.id
        request = agent_pb2.CreateExecutionRequest(agent_id=agent_id, input="Look:", file_ids=[file_id])
        assert list((await executions.CreateExecution(request, metadata=bob)).execution.file_ids) == [file_id]


async def downloads(files: FileServiceStub, who: Metadata, file_id: str) -> bool:
    return await outcome(download(files, who, file_id)) == READABLE
