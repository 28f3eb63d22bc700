"""A connection to a service that can be cut, held up, and taken away for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """What forwards bytes between its own address and a service's."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.connections = 0
        self.forwarded = 0
        """How many bytes have gone through, in both directions."""
        self.is_held = asyncio.Event()
        self._hold_at: int | None = None
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listening: asyncio.Server | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        await self.come_back()
        try:
            yield self
        finally:
            await self.go_away()

    async def come_back(self) -> None:
        """Listen, at the address where it was before."""
        port = int(self.address.rpartition(":")[2]) if self.address else 0
        self._listening = await asyncio.start_server(self._connect, "127.0.0.1", port)
        host, port = self._listening.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def go_away(self) -> None:
        """Take no connections any more, and cut those that there are."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        self.cut()

    def cut(self) -> None:
        """Break every connection off."""
        for writer in self._writers:
            writer.transport.abort()

    def hold(self) -> None:
        """Let nothing through any more."""
        self._flows.clear()
        self.is_held.set()

    def hold_after(self, more: int) -> None:
        """Let so many bytes through, and then nothing any more."""
        self._hold_at = self.forwarded + more

    def let_go(self) -> None:
        """Let everything through again."""
        self._hold_at = None
        self.is_held.clear()
        self._flows.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        host, _, port = self._target.rpartition(":")
        ends = {writer}
        try:
            with suppress(OSError):
                behind, before = await asyncio.open_connection(host, int(port))
                ends.add(before)
                self._writers |= ends
                await asyncio.gather(self._forward(reader, before), self._forward(behind, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._hold_at is not None and self.forwarded >= self._hold_at:
                self.hold()
            await self._flows.wait()
            self.forwarded += len(data)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # with one direction, the other ends
