"""Chat, agent and file as they know one another, and the shortest ways to files that are shared."""

import uuid
from collections.abc import Sequence
from typing import Any

import grpc

from parley.agent.v1 import execution_service_pb2 as agent_pb2
from parley.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from parley.chat.v1 import chat_service_pb2 as chat_pb2
from parley.file.v1 import file_service_pb2 as file_pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.agent.settings import AgentSettings
from services.agent.wiring import open_agent
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.file.settings import FileSettings
from services.file.wiring import open_file
from services.kit.settings import ServiceSettings
from tests.agent.conftest import draft
from tests.chat.conftest import Chat
from tests.cli.test_demo import free_ports
from tests.file.steps import PART, download, upload, whole
from tests.kit.authority import Authority
from tests.support import Metadata, TestKeys, reason_of, status_of

NAMES = ("auth", "agent", "file", "chat")


class Sharing:
    """The three services, with a stand-in for auth that gives the file service its tokens."""

    def __init__(self, serve: Any, settings: Any, keys: TestKeys) -> None:
        self.authority = Authority(keys)
        self._serve = serve
        self._settings = settings
        self._ports = dict(zip(NAMES, free_ports(4), strict=True))
        self._targets = {f"{name}_target": f"127.0.0.1:{port}" for name, port in self._ports.items()}
        self.files: FileServiceStub
        self.chat: Chat
        self.agents: AgentServiceStub
        self.executions: ExecutionServiceStub

    async def start(self, *names: str) -> "Sharing":
        """Start these of the services; the others are away."""
        for name in names:
            await getattr(self, f"_start_{name}")()
        return self

    async def upload(self, who: Metadata, data: bytes = b"hello", filename: str = "notes.bin") -> str:
        return (await upload(self.files, who, whole(data, filename))).id

    async def post(
        self, room_id: str, who: Metadata, *file_ids: str, name: str = "", text: str = ""
    ) -> chat_pb2.Message:
        """Send a message with files, under a name of its own unless it is given one."""
        request = chat_pb2.SendMessageRequest(
            room_id=room_id, client_message_id=name or uuid.uuid4().hex, text=text, file_ids=file_ids
        )
        return (await self.chat.stub.SendMessage(request, metadata=who)).message

    async def use(self, who: Metadata, file_ids: Sequence[str]) -> agent_pb2.Execution:
        """Give an agent of the user's files to read."""
        agent_id = (await self.agents.CreateAgent(draft(), metadata=who)).agent.id
        request = agent_pb2.CreateExecutionRequest(agent_id=agent_id, input="Look:", file_ids=file_ids)
        return (await self.executions.CreateExecution(request, metadata=who)).execution

    async def delete(self, who: Metadata, file_id: str) -> None:
        await self.files.DeleteFile(file_pb2.DeleteFileRequest(id=file_id), metadata=who)

    async def getting(self, who: Metadata, file_id: str) -> str:
        """What GetFile comes to: "OK" or a reason."""
        return await _outcome(self.files.GetFile(file_pb2.GetFileRequest(id=file_id), metadata=who))

    async def reading(self, who: Metadata, file_id: str) -> str:
        """What GetFile and DownloadFile, which must agree, come to: "OK" or a reason."""
        outcomes = {
            await self.getting(who, file_id),
            await _outcome(download(self.files, who, file_id)),
        }
        assert len(outcomes) == 1, outcomes
        return outcomes.pop()

    async def _run(self, name: str, wiring: Any, kind: Any, **values: Any) -> grpc.aio.Channel:
        own = self._settings(kind, **{**self._targets, **values})
        channel: grpc.aio.Channel = await self._serve(wiring, own, port=self._ports[name])
        return channel

    async def _start_auth(self) -> None:
        await self._run("auth", self.authority.opened, ServiceSettings)

    async def _start_agent(self) -> None:
        channel = await self._run("agent", open_agent, AgentSettings)
        self.agents, self.executions = AgentServiceStub(channel), ExecutionServiceStub(channel)

    async def _start_file(self) -> None:
        self.files = FileServiceStub(await self._run("file", open_file, FileSettings, file_part_bytes=PART))

    async def _start_chat(self) -> None:
        self.chat = Chat(await self._run("chat", open_chat, ChatSettings))


async def _outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(status_of(error))
    return "OK"
