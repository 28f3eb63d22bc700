"""Presence where something breaks in the middle: nobody is shown who is gone, and nobody missing who is there."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from services.chat.domain.conversation import Conversations
from services.chat.domain.notices import Hello, Ping, Subscribe
from services.chat.domain.outbox import MAX_WAITING
from services.chat.models import Room
from services.chat.repository.presence import PresenceRows
from services.chat.settings import ChatSettings
from services.chat.wiring import open_chat
from services.kit.database import Database
from services.kit.errors import DatabaseUnavailable
from services.kit.ids import utc_now, uuid7
from tests.chat.conftest import eventually

pytestmark = pytest.mark.slow


async def room_of(database: Database, user_id: Any) -> Room:
    room = Room(uuid7(), "plans", "", user_id, 0, 1, utc_now())
    async with database.transaction() as tx:
        await tx.execute(
            text("INSERT INTO chat.rooms VALUES (:id, :name, :description, :user_id, 0, 1, :create_time)"),
            room._asdict(),
        )
        await tx.execute(
            text("INSERT INTO chat.members VALUES (:id, :room, :user, now())"),
            {"id": uuid7(), "room": room.id, "user": user_id},
        )
    return room


def connections(database: Database, count: int) -> Any:
    """Whether there are so many connections in the database."""

    async def holds() -> bool:
        async with database.read() as tx:
            return bool((await tx.execute(text("SELECT count(*) FROM chat.connections"))).scalar_one() == count)

    return holds


async def test_who_is_cut_off_while_subscribing_anew_is_not_left_behind(
    settings: Any, database: Database, as_user: Any
) -> None:
    room = await room_of(database, as_user.id("ann"))
    async with open_chat(settings(ChatSettings)) as service:
        conversations: Conversations = service.registrations[0].servicer._conversations  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as tasks:
            conversation = conversations.begin(room.user_id, tasks)
            subscribe = Subscribe(room.id, 0)
            await conversation.handle(Hello([subscribe]))
            await eventually(connections(database, 1))

            async def ask_without_reading() -> None:
                for nonce in range(MAX_WAITING):
                    await conversation.handle(Ping(nonce))

            _, asking = await asyncio.wait((asyncio.create_task(ask_without_reading()),), timeout=0.2)
            again = asyncio.create_task(conversation.handle(subscribe))
            _, waiting = await asyncio.wait((again,), timeout=0.5)
            assert waiting, "the outbox was not full"
            for task in (*asking, again):
                task.cancel()
            await asyncio.wait((*asking, again))
            conversation.close()
        await eventually(connections(database, 0))


async def test_a_renewal_of_the_lease_whose_answer_is_lost_loses_nobody(
    settings: Any, database: Database, as_user: Any, monkeypatch: Any
) -> None:
    renew, answer_lost = PresenceRows.renew, asyncio.Event()

    async def renew_without_an_answer(self: PresenceRows, *arguments: Any) -> bool:
        lost = await renew(self, *arguments)
        if lost and not answer_lost.is_set():
            answer_lost.set()
            raise DatabaseUnavailable
        return lost

    room = await room_of(database, as_user.id("ann"))
    async with open_chat(settings(ChatSettings, chat_heartbeat_seconds=0.1)) as service:
        conversations: Conversations = service.registrations[0].servicer._conversations  # type: ignore[attr-defined]
        async with asyncio.TaskGroup() as tasks:
            conversation = conversations.begin(room.user_id, tasks)
            await conversation.handle(Hello([Subscribe(room.id, 0)]))
            await eventually(connections(database, 1))
            monkeypatch.setattr(PresenceRows, "renew", renew_without_an_answer)
            async with database.transaction() as tx:
                await tx.execute(text("DELETE FROM chat.processes"))
            async with asyncio.timeout(5):
                await answer_lost.wait()
            await eventually(connections(database, 1))
            conversation.close()
