"""The services that files are used in: each knows who may read a file because of what it keeps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

import grpc

from parley.agent.v1 import execution_service_pb2 as agent_pb2
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from parley.chat.v1 import chat_service_pb2 as chat_pb2
from parley.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from services.kit.errors import DependencyUnavailable
from services.kit.outgoing import open_channel
from services.kit.service_tokens import ServiceTokens

ASK_SECONDS = 3.0


class Owners(Protocol):
    """Where it is asked who may read a file that is somebody else's."""

    async def may_read(self, user_id: UUID, file_id: UUID) -> bool:
        """Whether any of them lets the user read the file.

        Raises DependencyUnavailable if none says yes and one could not be asked.
        """


class RemoteOwners:
    """Chat and agent, which are asked at once; the first yes is the answer."""

    def __init__(self, chat: ChatServiceStub, executions: ExecutionServiceStub) -> None:
        self._chat = chat
        self._executions = executions

    async def may_read(self, user_id: UUID, file_id: UUID) -> bool:
        """See Owners.may_read."""
        user, file = str(user_id), str(file_id)
        asking = {
            asyncio.ensure_future(self._ask_chat(chat_pb2.CheckFileReaderRequest(user_id=user, file_id=file))),
            asyncio.ensure_future(self._ask_agent(agent_pb2.CheckFileReaderRequest(user_id=user, file_id=file))),
        }
        failures = []
        try:
            for answer in asyncio.as_completed(asking):
                try:
                    if await answer:
                        return True
                except grpc.aio.AioRpcError as error:
                    failures.append(error)
        finally:
            for question in asking:
                question.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        if failures:
            raise DependencyUnavailable from failures[0]
        return False

    async def _ask_chat(self, request: chat_pb2.CheckFileReaderRequest) -> bool:
        return (await self._chat.CheckFileReader(request, timeout=ASK_SECONDS)).may_read

    async def _ask_agent(self, request: agent_pb2.CheckFileReaderRequest) -> bool:
        return (await self._executions.CheckFileReader(request, timeout=ASK_SECONDS)).may_read


@asynccontextmanager
async def open_owners(chat_target: str, agent_target: str, tokens: ServiceTokens) -> AsyncIterator[RemoteOwners]:
    """The chat and agent services at these gRPC targets, which need not be there yet."""
    async with (
        open_channel(chat_target, identity=tokens) as chat,
        open_channel(agent_target, identity=tokens) as agent,
    ):
        yield RemoteOwners(ChatServiceStub(chat), ExecutionServiceStub(agent))
