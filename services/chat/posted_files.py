"""Whether files can be read by who posts them, as the file service says."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import UUID

import grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.kit.errors import DependencyUnavailable
from services.kit.outgoing import CALLER, open_channel

ASK_SECONDS = 5.0


class PostedFiles(Protocol):
    """Where it is asked which files somebody may read."""

    async def first_unreadable(self, file_ids: Sequence[UUID]) -> UUID | None:
        """The first of these files that the user whose call is in hand cannot read; None if there is none.

        Raises DependencyUnavailable while it cannot be known.
        """


class RemoteFiles:
    """The files of the file service."""

    def __init__(self, files: FileServiceStub) -> None:
        self._files = files

    async def first_unreadable(self, file_ids: Sequence[UUID]) -> UUID | None:
        """See PostedFiles.first_unreadable."""
        answers = await asyncio.gather(*map(self._can_read, file_ids), return_exceptions=True)
        for file_id, answer in zip(file_ids, answers, strict=True):
            if answer is False:
                return file_id
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return None

    async def _can_read(self, file_id: UUID) -> bool:
        try:
            await self._files.GetFile(pb2.GetFileRequest(id=str(file_id)), timeout=ASK_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return False
            raise DependencyUnavailable from error
        return True


@asynccontextmanager
async def open_posted_files(target: str) -> AsyncIterator[RemoteFiles]:
    """The files of the file service at this gRPC target, which need not be there yet."""
    async with open_channel(target, identity=CALLER) as channel:
        yield RemoteFiles(FileServiceStub(channel))
