"""The bus over PostgreSQL: hints reach other processes, interruptions are told, and no hint delays who gives it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from services.kit.bus import MAX_PAYLOAD_BYTES, PostgresBus, _payloads, open_bus
from services.kit.database import libpq_url
from services.kit.settings import DatabaseSettings

OpenBus = Callable[..., Any]


@pytest.fixture
async def bus(settings: Any) -> AsyncIterator[OpenBus]:
    """Opens buses that stand for processes of one service, or of the one named."""
    async with AsyncExitStack() as stack:

        async def open_one(channel: str = "tests") -> PostgresBus:
            opened = await stack.enter_async_context(open_bus(settings(DatabaseSettings), channel))
            async with asyncio.timeout(5):
                await opened.wait_listening()
            return opened

        yield open_one


def heard_by(bus: PostgresBus, topic: str) -> "asyncio.Queue[int | None]":
    heard: asyncio.Queue[int | None] = asyncio.Queue()
    bus.subscribe(topic, heard.put_nowait)
    return heard


async def wait_for(heard: "asyncio.Queue[int | None]", position: int | None) -> None:
    async with asyncio.timeout(5):
        while await heard.get() != position:
            pass


def end_backends(url: str, application: str) -> int:
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE %s",
            (application,),
        )
        return len(ended.fetchall())


async def test_a_hint_reaches_its_own_process_at_once_and_others_soon(bus: OpenBus) -> None:
    here, there = await bus(), await bus()
    near, far = heard_by(here, "room:1"), heard_by(there, "room:1")
    here.hint("room:1", 7)
    assert near.get_nowait() == 7
    await wait_for(far, 7)


async def test_a_hint_is_heard_for_its_topic_only_and_not_after_unsubscribing(bus: OpenBus) -> None:
    here, there = await bus(), await bus()
    other, mine = heard_by(there, "room:2"), heard_by(there, "room:1")
    left: list[int | None] = []
    there.subscribe("room:1", left.append)()
    here.hint("room:1", 1)
    await wait_for(mine, 1)
    assert other.empty()
    assert left == []


async def test_services_do_not_hear_each_other(bus: OpenBus) -> None:
    chat, agent, chat_too = await bus("chat"), await bus("agent"), await bus("chat")
    foreign, own = heard_by(agent, "t:1"), heard_by(chat_too, "t:1")
    chat.hint("t:1", 1)
    await wait_for(own, 1)
    assert foreign.empty()


async def test_ten_thousand_topics_at_once_all_arrive(bus: OpenBus) -> None:
    here, there = await bus(), await bus()
    topics = [f"room:{n}" for n in range(10_000)]
    missing = set(topics)
    done = asyncio.Event()

    def hear(topic: str) -> None:
        missing.discard(topic)
        if not missing:
            done.set()

    for topic in topics:
        there.subscribe(topic, lambda _position, topic=topic: hear(topic))
    for n, topic in enumerate(topics):
        here.hint(topic, n)
    async with asyncio.timeout(10):
        await done.wait()


def test_payloads_stay_below_what_postgresql_takes_and_lose_nothing() -> None:
    hints = {f"{'é' * 90}{n}": n for n in range(500)}
    payloads = list(_payloads(hints))
    assert len(payloads) > 1
    assert max(len(payload.encode()) for payload in payloads) <= MAX_PAYLOAD_BYTES
    assert {line.split()[0]: int(line.split()[1]) for p in payloads for line in p.splitlines()} == hints


@pytest.mark.parametrize("topic", ["two words", "line\nbreak", "x" * 201])
async def test_a_topic_that_would_break_a_payload_is_refused(bus: OpenBus, topic: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        (await bus()).hint(topic, 1)


async def test_after_its_connection_was_cut_a_listener_is_told_to_look_and_hears_again(
    bus: OpenBus, database_url: str
) -> None:
    here, there = await bus(), await bus()
    heard = heard_by(there, "room:1")
    assert end_backends(database_url, "LISTEN%") + end_backends(database_url, "SELECT 1") > 0
    await wait_for(heard, None)
    here.hint("room:1", 9)
    await wait_for(heard, 9)


async def test_a_hint_given_while_the_sending_connection_is_cut_arrives_later(bus: OpenBus, database_url: str) -> None:
    here, there = await bus(), await bus()
    heard = heard_by(there, "room:1")
    here.hint("room:1", 1)
    await wait_for(heard, 1)
    assert end_backends(database_url, "SELECT pg_notify%") > 0
    here.hint("room:1", 2)
    await wait_for(heard, 2)


async def test_hints_given_just_before_the_end_are_sent(bus: OpenBus, settings: Any) -> None:
    there = await bus()
    heard = heard_by(there, "room:1")
    async with open_bus(settings(DatabaseSettings), "tests") as leaving:
        leaving.hint("room:1", 3)
    await wait_for(heard, 3)


async def test_hints_without_a_database_neither_fail_nor_block() -> None:
    settings = DatabaseSettings(database_url=SecretStr("postgresql://127.0.0.1:1/none"))
    async with open_bus(settings, "tests") as alone:
        heard = heard_by(alone, "room:1")
        alone.hint("room:1", 5)
        assert heard.get_nowait() == 5
        assert not alone.listening
