"""One person's Connect stream: a reader that sorts what comes, and what to wait for."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

import grpc

from parley.chat.v1 import chat_service_pb2 as pb2
from services.cli.demo.steps import WrongAnswer, expect, reason_in
from services.cli.demo.suite import STREAM_SECONDS, Person, Suite

ANSWER_SECONDS = 10.0
Said = tuple[int, str]
"""A message's sequence and text."""


class Connection:
    """A person in a room. Made by `open`."""

    def __init__(self, call: Any, person: Person, room_id: str, after: int) -> None:
        self._call = call
        self._person = person
        self._room_id = room_id
        self._news = asyncio.Condition()
        self._events: list[Said] = []
        self._sent: set[str] = set()
        self._acks: dict[str, int] = {}
        self._ahead: set[int] = set()
        self._presence: list[tuple[str, int]] = []
        self._caught_up = False
        self._failure: Exception | None = None
        self.cursor = after
        """The last sequence up to which the person has everything, by events and by acks."""

    @classmethod
    @asynccontextmanager
    async def open(cls, suite: Suite, person: Person, room_id: str, after: int = 0) -> AsyncIterator[Self]:
        """Connect and follow the room from a cursor."""
        call = suite.chat.Connect(metadata=person.metadata, timeout=STREAM_SECONDS)
        connection = cls(call, person, room_id, after)
        subscribe = pb2.ConnectRequest.Subscribe(room_id=room_id, after_sequence=after)
        reader: asyncio.Task[None] | None = None
        try:
            await call.write(pb2.ConnectRequest(hello=pb2.ConnectRequest.Hello(cursors=[subscribe])))
            reader = asyncio.create_task(connection._read())
            yield connection
        finally:
            call.cancel()
            if reader is not None:
                await reader

    async def say(self, text: str) -> Said:
        """Send a message and wait for its ack."""
        name = str(uuid.uuid4())
        self._sent.add(name)
        send = pb2.ConnectRequest.Send(room_id=self._room_id, client_message_id=name, text=text)
        await self._call.write(pb2.ConnectRequest(send=send))
        await self._until(lambda: name in self._acks, f"an ack of {text!r}")
        return self._acks[name], text

    async def heard(self, count: int) -> list[Said]:
        """The next messages of others, in the order in which they came."""
        await self._until(lambda: len(self._events) >= count, f"{count} messages")
        taken, self._events = self._events[:count], self._events[count:]
        return taken

    def unheard(self) -> list[Said]:
        """Messages that came and were not asked for."""
        return self._events

    async def until_caught_up(self) -> None:
        """Wait until everything that there was has come."""
        await self._until(lambda: self._caught_up, "being caught up")

    async def until_told(self, user_id: str, change: int) -> None:
        """Wait for news of somebody's presence."""
        kind = pb2.Presence.Change.Name(change)  # type: ignore[arg-type]  # one of its values
        await self._until(lambda: (user_id, change) in self._presence, f"the news {kind}")
        self._presence.remove((user_id, change))

    def break_off(self) -> None:
        """Break the connection without a word."""
        self._call.cancel()

    async def close(self) -> None:
        """End the stream as a client should: half-close, and wait for the server's end."""
        await self._call.done_writing()
        expect(await asyncio.wait_for(self._call.code(), ANSWER_SECONDS), grpc.StatusCode.OK, "the stream's status")

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        def settled() -> bool:
            return condition() or self._failure is not None

        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._news:
                await self._news.wait_for(settled)
        except TimeoutError:
            raise WrongAnswer(f"{self._person.name} waited {ANSWER_SECONDS:.0f} s in vain for {what}") from None
        if not condition() and self._failure is not None:
            raise self._failure

    async def _read(self) -> None:
        failure: Exception = WrongAnswer(f"{self._person.name}'s stream has ended")
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                async with self._news:
                    self._take(response)
                    self._news.notify_all()
        except asyncio.CancelledError:
            pass  # The call was cancelled: by `break_off`, or because the block has ended.
        except (WrongAnswer, grpc.aio.AioRpcError) as error:
            failure = error
        async with self._news:
            self._failure = failure
            self._news.notify_all()

    def _take(self, response: pb2.ConnectResponse) -> None:
        for event in response.events:
            message = event.message_sent
            if message.user_id == self._person.id and message.client_message_id in self._sent:
                raise WrongAnswer(f"{self._person.name} got an echo of {message.text!r}")
            self._events.append((event.sequence, message.text))
            self._has(event.sequence)
        match response.WhichOneof("notice"):
            case "ack":
                self._acks[response.ack.client_message_id] = response.ack.sequence
                self._has(response.ack.sequence)
            case "nack":
                raise WrongAnswer(f"{self._person.name} was refused: {reason_in(response.nack.status)}")
            case "caught_up":
                self._caught_up = True
            case "presence":
                self._presence.append((response.presence.user_id, response.presence.change))
            case "gap" | "go_away" as notice:
                raise WrongAnswer(f"{self._person.name} got `{notice}`, for which there is no reason here")
            case _:
                pass

    def _has(self, sequence: int) -> None:
        """Move the cursor, but not over a hole: an ack may be here before the events that come before it."""
        self._ahead.add(sequence)
        while self.cursor + 1 in self._ahead:
            self.cursor += 1
            self._ahead.remove(self.cursor)
