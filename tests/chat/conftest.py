"""Running chat servers on one database, and the shortest ways to a room and onto a stream."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from sqlalchemy import text as sql
from sqlalchemy.engine import make_url

from parley.chat.v1 import chat_service_pb2 as pb2
from parley.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.kit.database import Database
from services.kit.server import running
from tests.support import identity_of

Metadata = tuple[tuple[str, str], ...]
WAIT = 10.0


class Stream:
    """A client's end of Connect that waits for what it expects, with a deadline, and keeps events and who was there."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.events: list[pb2.Event] = []
        self.present: list[str] = []
        self.connection_id = ""

    async def write(self, **intent: Any) -> None:
        await self.call.write(pb2.ConnectRequest(**intent))

    async def hello(self, *cursors: tuple[str, int]) -> None:
        """Say hello and read to the last room's `caught_up`, or to `welcome` if there is none."""
        subscribes = [pb2.ConnectRequest.Subscribe(room_id=r, after_sequence=after) for r, after in cursors]
        await self.write(hello=pb2.ConnectRequest.Hello(cursors=subscribes))
        self.connection_id = (await self.notice("welcome")).connection_id
        waiting = {room_id for room_id, _ in cursors}
        while waiting:
            waiting.discard((await self.notice("caught_up")).room_id)

    async def subscribe(self, room_id: str, after: int = 0) -> None:
        await self.write(subscribe=pb2.ConnectRequest.Subscribe(room_id=room_id, after_sequence=after))

    async def send(self, room_id: str, name: str, text: str = "hi") -> None:
        await self.write(send=pb2.ConnectRequest.Send(room_id=room_id, client_message_id=name, text=text))

    async def read(self) -> pb2.ConnectResponse:
        """The next response; its events are kept in `events`."""
        async with asyncio.timeout(WAIT):
            response = await self.call.read()
        assert response is not grpc.aio.EOF, f"the stream ended with {await self.call.code()}"
        self.events += response.events
        if response.presence.change == pb2.Presence.CHANGE_PRESENT:
            self.present.append(response.presence.user_id)
        return response  # type: ignore[no-any-return]  # gRPC's read is untyped

    async def notice(self, name: str, **fields: Any) -> Any:
        """The next notice of this name with these fields; others are passed over."""
        while True:
            response = await self.read()
            if response.WhichOneof("notice") == name:
                notice = getattr(response, name)
                if all(getattr(notice, field) == value for field, value in fields.items()):
                    return notice

    async def until(self, sequence: int) -> list[int]:
        """The sequences of all events so far, once this one has come."""
        while sequence not in self.sequences:
            await self.read()
        return self.sequences

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events]

    @property
    def texts(self) -> list[str]:
        return [event.message_sent.text for event in self.events]

    async def rest(self) -> tuple[list[pb2.ConnectResponse], grpc.StatusCode]:
        """What still comes, and how the stream ends."""
        responses = []
        async with asyncio.timeout(WAIT):
            try:
                while (response := await self.call.read()) is not grpc.aio.EOF:
                    self.events += response.events
                    responses.append(response)
            except grpc.aio.AioRpcError:
                pass
            return responses, await self.call.code()


class Chat:
    """One chat server, as clients see it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = ChatServiceStub(channel)
        self._channel = channel

    async def close(self) -> None:
        """Cut the connection."""
        await self._channel.close()

    async def create_room(self, who: Metadata, name: str = "plans", **fields: Any) -> str:
        return (await self.stub.CreateRoom(pb2.CreateRoomRequest(name=name, **fields), metadata=who)).room.id

    async def room_of(self, *people: Metadata) -> str:
        """A room whose creator is the first of its members."""
        room_id = await self.create_room(people[0])
        await self.join(room_id, *people[1:])
        return room_id

    async def join(self, room_id: str, *everybody: Metadata) -> None:
        for who in everybody:
            await self.stub.JoinRoom(pb2.JoinRoomRequest(room_id=room_id), metadata=who)

    async def leave(self, room_id: str, who: Metadata) -> None:
        await self.stub.LeaveRoom(pb2.LeaveRoomRequest(room_id=room_id), metadata=who)

    async def send(self, room_id: str, who: Metadata, name: str, text: str = "hi", **fields: Any) -> pb2.Message:
        request = pb2.SendMessageRequest(room_id=room_id, client_message_id=name, text=text, **fields)
        return (await self.stub.SendMessage(request, metadata=who)).message

    async def messages(self, room_id: str, who: Metadata, **fields: Any) -> list[pb2.Message]:
        request = pb2.ListMessagesRequest(room_id=room_id, **fields)
        return list((await self.stub.ListMessages(request, metadata=who)).messages)

    def raw_connect(self, who: Metadata) -> Any:
        """A Connect call that sends and gives bytes as they are."""
        return self._channel.stream_stream("/parley.chat.v1.ChatService/Connect")(metadata=who)

    @asynccontextmanager
    async def connect(self, who: Metadata, *cursors: tuple[str, int], hello: bool = True) -> AsyncIterator[Stream]:
        """A Connect stream that has said hello; cancelled at the end."""
        call = self.stub.Connect(metadata=who)
        stream = Stream(call)
        try:
            if hello:
                await stream.hello(*cursors)
            yield stream
        finally:
            call.cancel()


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Return once it holds."""
    async with asyncio.timeout(WAIT):
        while not await holds():  # noqa: ASYNC110  # what is waited for is in another process: the database
            await asyncio.sleep(0.02)


async def store_messages(database: Database, room_id: str, user_id: UUID, count: int, text: str = "hi") -> None:
    """Put messages into an empty room at once, as sending them would."""
    rows = (
        "INSERT INTO chat.messages (id, room_id, sequence, user_id, client_message_id, text, create_time)"
        " SELECT gen_random_uuid(), :room, n, :user, 'stored ' || n, :text, now() FROM generate_series(1, :count) n"
    )
    async with database.transaction() as tx:
        await tx.execute(sql(rows), {"room": room_id, "user": user_id, "count": count, "text": text})
        await tx.execute(
            sql("UPDATE chat.rooms SET last_sequence = :count WHERE id = :room"), {"room": room_id, "count": count}
        )


@asynccontextmanager
async def database_away(url: str, server: str) -> AsyncIterator[None]:
    """Nobody can connect to the database, and nobody is connected."""
    name = make_url(url).database
    admin_url = make_url(server).set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


StartChat = Callable[..., Awaitable[Chat]]


@pytest.fixture
async def start_chat(settings: Any, serve: Any) -> StartChat:
    """Starts chat servers on this test's database, with the settings given."""

    async def start(**values: Any) -> Chat:
        return Chat(await serve(open_chat, settings(ChatSettings, chat_port=0, **values)))

    return start


@pytest.fixture
async def chat(start_chat: StartChat) -> Chat:
    return await start_chat()


@pytest.fixture
async def stoppable_chat(settings: Any, keys: Any) -> AsyncIterator[Any]:
    """Starts servers that the test stops itself: gives what stops it, and the server."""
    async with AsyncExitStack() as everything:

        async def start(**values: Any) -> tuple[Callable[[], Awaitable[None]], Chat]:
            mine = settings(ChatSettings, chat_port=0, **values)
            channels = await everything.enter_async_context(AsyncExitStack())
            server = await everything.enter_async_context(AsyncExitStack())
            service = await server.enter_async_context(open_chat(mine))
            service = replace(service, identity=identity_of(keys))
            address = await server.enter_async_context(running(service, mine, port=0))
            channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
            return server.aclose, Chat(await channels.enter_async_context(channel))

        yield start
