"""The providers that there are, and which of them runs a model."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Self

from services.agent.providers import Provider
from services.agent.providers.anthropic import Anthropic
from services.agent.providers.echo import Echo
from services.agent.providers.openai import OpenAI
from services.agent.providers.routes import Route


@dataclass(frozen=True, slots=True)
class Account:
    """How to reach a provider: with a key, at another address than its own, or both. With neither, it is not used."""

    api_key: str | None = field(default=None, repr=False)
    base_url: str | None = None

    def __bool__(self) -> bool:
        return bool(self.api_key or self.base_url)


class Providers:
    """The providers by the models that they run."""

    def __init__(self, routes: Sequence[Route], providers: Mapping[str, Provider]) -> None:
        self._routes = tuple(routes)
        self._providers = dict(providers)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        routes: Sequence[Route],
        *,
        echo_pace: float,
        anthropic: Account,
        openai: Account,
        silence: float,
        retries: int,
    ) -> AsyncIterator[Self]:
        """The providers that the routes name and that there is an account for, closed at the end.

        Raises SettingUnusable when the extra that one of them needs is not installed.
        """
        named = {route.provider for route in routes}
        async with AsyncExitStack() as stack:
            providers: dict[str, Provider] = {"echo": Echo(echo_pace)}
            for name, kind, account in (("anthropic", Anthropic, anthropic), ("openai", OpenAI, openai)):
                if account and name in named:
                    providers[name] = await stack.enter_async_context(
                        kind(api_key=account.api_key, base_url=account.base_url, silence=silence, retries=retries)
                    )
            yield cls(routes, providers)

    def provider_for(self, model_name: str) -> Provider | None:
        """The provider of the first route that matches; None if none does, or if that one has no account."""
        for route in self._routes:
            if fnmatchcase(model_name, route.pattern):
                return self._providers.get(route.provider)
        return None
