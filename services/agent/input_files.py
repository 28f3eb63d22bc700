"""Files that a user may read, read through the file service on that user's behalf."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import grpc

from parley.file.v1 import file_service_pb2 as pb2
from parley.file.v1.file_service_pb2_grpc import FileServiceStub
from services.kit.errors import DependencyUnavailable
from services.kit.outgoing import CALLER, open_channel

READ_SECONDS = 20.0


class FileMissing(Exception):
    """There is no such file, or the user may not read it."""


class FileTooLarge(Exception):
    """The file has more bytes than are taken."""


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file with its bytes."""

    filename: str
    content: bytes


class InputFiles(Protocol):
    """Where files are read from."""

    async def read(self, file_id: UUID, max_bytes: int) -> ReadFile:
        """A file, for the user whose call is in hand.

        Raises FileMissing, FileTooLarge, and DependencyUnavailable while it cannot be known.
        """


class RemoteFiles:
    """The files of the file service."""

    def __init__(self, files: FileServiceStub) -> None:
        self._files = files

    async def read(self, file_id: UUID, max_bytes: int) -> ReadFile:
        """See InputFiles.read."""
        call = self._files.DownloadFile(pb2.DownloadFileRequest(id=str(file_id)), timeout=READ_SECONDS)
        filename, parts = "", []
        try:
            async for response in call:
                if response.HasField("file"):
                    filename = response.file.filename
                    if response.file.size_bytes > max_bytes:
                        raise FileTooLarge
                else:
                    parts.append(response.chunk.data)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise FileMissing from error
            raise DependencyUnavailable from error
        finally:
            call.cancel()
        return ReadFile(filename, b"".join(parts))


@asynccontextmanager
async def open_input_files(target: str) -> AsyncIterator[RemoteFiles]:
    """The files of the file service at this gRPC target, which need not be there yet."""
    async with open_channel(target, identity=CALLER) as channel:
        yield RemoteFiles(FileServiceStub(channel))
