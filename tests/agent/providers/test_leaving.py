"""Who no longer wants an answer closes the provider's request at once."""

import asyncio
from typing import Any

from services.agent.providers import Text, Usage
from services.agent.providers.remote import RemoteProvider
from tests.agent.providers.conftest import Open, pieces_of, prompt, text_of
from tests.agent.providers.script import Raw, Say, Status, Wait, saying
from tests.agent.providers.server import ProviderServer

PATIENCE = 5.0


async def read_all(provider: RemoteProvider[Any]) -> None:
    await pieces_of(provider, prompt())


async def cancel(reading: "asyncio.Task[None]") -> None:
    reading.cancel()
    await asyncio.wait([reading], timeout=PATIENCE)
    assert reading.cancelled()


async def test_cancelling_while_text_comes_closes_the_request(server: ProviderServer, open_provider: Open) -> None:
    server.will(Say(["Hello "] * 10_000, pace=0.01))
    reading = asyncio.create_task(read_all(await open_provider(silence=60)))
    async with asyncio.timeout(PATIENCE):
        request = await server.received()
        await request.begun.wait()
        await cancel(reading)
        await request.left.wait()


async def test_cancelling_before_the_answer_begins_closes_the_request(
    server: ProviderServer, open_provider: Open
) -> None:
    server.will(Wait())
    reading = asyncio.create_task(read_all(await open_provider(silence=60)))
    async with asyncio.timeout(PATIENCE):
        request = await server.received()
        await cancel(reading)
        await request.left.wait()


async def test_cancelling_between_two_tries_ends_them(server: ProviderServer, open_provider: Open) -> None:
    server.will(Status(503, headers={"retry-after": "30"}))
    reading = asyncio.create_task(read_all(await open_provider(retries=5)))
    async with asyncio.timeout(PATIENCE):
        request = await server.received()
        await request.ended.wait()
        await cancel(reading)
    assert len(server.requests) == 1


async def test_leaving_the_block_early_closes_the_request(server: ProviderServer, open_provider: Open) -> None:
    server.will(Say(["Hello", " there"]), Wait())
    async with asyncio.timeout(PATIENCE):
        async with (await open_provider(silence=60)).answer(prompt()) as pieces:
            async for piece in pieces:
                assert isinstance(piece, Text | Usage)
                if isinstance(piece, Text):
                    break
        await server.requests[0].left.wait()


async def test_an_answer_that_nobody_pulls_is_never_asked_for(server: ProviderServer, open_provider: Open) -> None:
    async with (await open_provider()).answer(prompt()):
        pass
    assert server.requests == []


async def test_a_server_that_keeps_the_stream_open_behind_its_end_is_left(
    server: ProviderServer, open_provider: Open
) -> None:
    server.will(*saying("Hello"), Wait())
    async with asyncio.timeout(PATIENCE):
        await read_all(await open_provider(silence=60))
        await server.requests[0].left.wait()


async def test_what_comes_behind_the_end_is_of_no_interest(server: ProviderServer, open_provider: Open) -> None:
    server.will(*saying("Hello"), Raw(b"\xff\n\n"))
    assert text_of(await pieces_of(await open_provider(), prompt())) == "Hello"


async def test_many_answers_come_at_a_time(server: ProviderServer, open_provider: Open) -> None:
    server.otherwise = lambda request: saying(*[request.body["model"]] * 5, pace=0.02)
    provider = await open_provider(silence=60)
    models = [f"model-{number}," for number in range(100)]
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(pieces_of(provider, prompt(model=model)) for model in models))
    assert [text_of(pieces) for pieces in answers] == [model * 5 for model in models]
