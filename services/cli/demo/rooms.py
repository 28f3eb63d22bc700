"""The fifth chapter: a room."""

import uuid
from contextlib import AsyncExitStack

from parley.chat.v1 import chat_service_pb2 as pb2
from services.cli.demo.connection import Connection
from services.cli.demo.steps import Steps, expect
from services.cli.demo.suite import Person, Suite, call

TURNS = 10
MISSED = 7
ONCE = "Once only"


async def talk(suite: Suite, steps: Steps, ann: Person, bob: Person) -> None:
    """Both meet in a room; nothing is lost, doubled or out of order, also over a broken connection."""
    async with steps.step("Ann creates a room, and Bob joins it"):
        request = pb2.CreateRoomRequest(name="Demo", description="Made by the demo", request_id=str(uuid.uuid4()))
        room = (await call(suite.chat.CreateRoom, request, ann)).room
        await call(suite.chat.JoinRoom, pb2.JoinRoomRequest(room_id=room.id), bob)
        members = (await call(suite.chat.ListMembers, pb2.ListMembersRequest(room_id=room.id), ann)).members
        expect([member.user_id for member in members], [ann.id, bob.id], "the members")

    async with AsyncExitStack() as stack:

        async def connect(person: Person, after: int = 0) -> Connection:
            connection = await stack.enter_async_context(Connection.open(suite, person, room.id, after))
            await connection.until_caught_up()
            return connection

        async with steps.step("Both connect; Ann is told that Bob is there"):
            hers = await connect(ann)
            his = await connect(bob)
            await hers.until_told(bob.id, pb2.Presence.CHANGE_JOINED)

        async with steps.step(f"They say {2 * TURNS} things in turns; each gets the other's in order, and no echo"):
            said_by_ann, said_by_bob = [], []
            for turn in range(TURNS):
                said_by_ann.append(await hers.say(f"Ann's {turn}"))
                said_by_bob.append(await his.say(f"Bob's {turn}"))
            expect(await his.heard(TURNS), said_by_ann, "what Bob heard")
            expect(await hers.heard(TURNS), said_by_bob, "what Ann heard")
            in_turns = [sequence for turn in zip(said_by_ann, said_by_bob, strict=True) for sequence, _ in turn]
            expect(in_turns, list(range(1, 2 * TURNS + 1)), "the sequence of the messages")

        async with steps.step("Bob's connection breaks; Ann is told that he left, and goes on talking"):
            his.break_off()
            await hers.until_told(bob.id, pb2.Presence.CHANGE_LEFT)
            missed = [await hers.say(f"Missed {number}") for number in range(MISSED)]

        async with steps.step("Bob comes back with his cursor: he misses nothing and gets nothing twice"):
            his = await connect(bob, after=his.cursor)
            await hers.until_told(bob.id, pb2.Presence.CHANGE_JOINED)
            expect(await his.heard(MISSED), missed, "what Bob heard when he was back")
            fresh = await hers.say("Welcome back")
            expect(await his.heard(1), [fresh], "what Bob heard then")
            expect(his.unheard(), [], "what else Bob got")

        async with steps.step("A message that is sent again is stored once"):
            await _send_twice(suite, bob, room.id)
            expect([text for _, text in await hers.heard(1)], [ONCE], "what Ann heard")
            last = await his.say("That was all")
            expect(await hers.heard(1), [last], "what Ann heard then")

        async with steps.step("Bob leaves; Ann is told"):
            await his.close()
            await hers.until_told(bob.id, pb2.Presence.CHANGE_LEFT)
            await call(suite.chat.LeaveRoom, pb2.LeaveRoomRequest(room_id=room.id), bob)
            members = (await call(suite.chat.ListMembers, pb2.ListMembersRequest(room_id=room.id), ann)).members
            expect([member.user_id for member in members], [ann.id], "the members")

    async with steps.step("What was said is all there, in order"):
        request_all = pb2.ListMessagesRequest(room_id=room.id)
        kept = (await call(suite.chat.ListMessages, request_all, ann)).messages
        count = 2 * TURNS + MISSED + 3
        expect([message.sequence for message in kept], list(range(1, count + 1)), "the sequence of what is kept")


async def _send_twice(suite: Suite, person: Person, room_id: str) -> None:
    request = pb2.SendMessageRequest(room_id=room_id, client_message_id=str(uuid.uuid4()), text=ONCE)
    first = (await call(suite.chat.SendMessage, request, person)).message
    again = (await call(suite.chat.SendMessage, request, person)).message
    expect(again, first, "the answer to the repeat")
