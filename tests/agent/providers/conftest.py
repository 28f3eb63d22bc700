"""A provider's server that does what tests tell it, and providers that ask it over real HTTP."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.agent.providers import Piece, Prompt, Provider, Text, UserTurn
from services.agent.providers.anthropic import Anthropic
from services.agent.providers.openai import OpenAI
from services.agent.providers.remote import RemoteProvider
from tests.agent.providers.server import ProviderServer

KEY = "sk-the-key-of-the-tests"
Open = Callable[..., Awaitable[RemoteProvider[Any]]]


def prompt(text: str = "Hi", **changed: Any) -> Prompt:
    return Prompt(**{"model": "some-model", "system": "", "turns": [UserTurn(text)], **changed})


async def pieces_of(provider: Provider, asked: Prompt) -> list[Piece]:
    async with provider.answer(asked) as pieces:
        return [piece async for piece in pieces]


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Text))


@pytest.fixture
async def server() -> AsyncIterator[ProviderServer]:
    async with ProviderServer() as running:
        yield running


@pytest.fixture(params=["anthropic", "openai"])
def kind(request: pytest.FixtureRequest) -> str:
    """The provider that the test is about: each in its turn."""
    return str(request.param)


@pytest.fixture
async def open_provider(server: ProviderServer, kind: str) -> AsyncIterator[Open]:
    """Opens a provider of this kind that asks the server."""
    async with AsyncExitStack() as stack:

        async def open_one(**changed: Any) -> RemoteProvider[Any]:
            given = {"api_key": KEY, "silence": 5.0, "retries": 0, **changed}
            if kind == "anthropic":
                provider: RemoteProvider[Any] = Anthropic(**{"base_url": server.anthropic_url, **given})
            else:
                provider = OpenAI(**{"base_url": server.openai_url, **given})
            return await stack.enter_async_context(provider)

        yield open_one
