"""Which provider runs a model, and what is said of settings that are wrong."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from services.agent.providers.anthropic import Anthropic
from services.agent.providers.echo import Echo
from services.agent.providers.openai import OpenAI
from services.agent.providers.routes import Route, parse_routes
from services.agent.providers.routing import Account, Providers
from services.agent.settings import AgentSettings
from services.kit.settings import SettingUnusable
from tests.agent.providers.conftest import KEY, pieces_of, prompt, text_of
from tests.agent.providers.server import ProviderServer

HERE = Account(api_key=KEY)
ROUTES = "echo*=echo, claude-*=anthropic, gpt-*=openai, claude-old=openai"


@asynccontextmanager
async def opened(routes: str = ROUTES, anthropic: Account = HERE, openai: Account = HERE) -> AsyncIterator[Providers]:
    async with Providers.open(
        parse_routes(routes), echo_pace=0.0, anthropic=anthropic, openai=openai, silence=5.0, retries=0
    ) as providers:
        yield providers


def agent_settings(**values: Any) -> AgentSettings:
    return AgentSettings.model_validate({"database_url": "postgresql://localhost/x", **values})


async def test_the_first_route_that_matches_decides() -> None:
    async with opened() as providers:
        assert isinstance(providers.provider_for("echo"), Echo)
        assert isinstance(providers.provider_for("claude-new"), Anthropic)
        assert isinstance(providers.provider_for("claude-old"), Anthropic)
        assert isinstance(providers.provider_for("gpt-9"), OpenAI)
        assert providers.provider_for("gpt-9") is providers.provider_for("gpt-8")


@pytest.mark.parametrize("model", ["", "llama", "GPT-9", "my-echo"])
async def test_a_model_that_no_route_matches_has_no_provider(model: str) -> None:
    async with opened() as providers:
        assert providers.provider_for(model) is None


@pytest.mark.parametrize("account", [Account(), Account(api_key=""), Account(api_key="", base_url="")])
async def test_a_provider_without_key_and_address_is_not_there(account: Account) -> None:
    async with opened(anthropic=account, openai=account) as providers:
        assert providers.provider_for("claude-new") is None
        assert providers.provider_for("gpt-9") is None
        assert providers.provider_for("echo") is not None


async def test_an_address_is_enough(server: ProviderServer) -> None:
    async with opened("*=openai", openai=Account(base_url=server.openai_url)) as providers:
        provider = providers.provider_for("llama")
        assert provider is not None
        assert text_of(await pieces_of(provider, prompt())) == "Hello there."


@pytest.mark.parametrize("name", ["anthropic", "openai"])
async def test_an_extra_that_is_missing_is_told_of_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with opened():
        pass  # What one SDK imports of the other's libraries is there, whichever test came first.
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(SettingUnusable, match=rf"PARLEY_AGENT_{name.upper()}_API_KEY .*parley\[{name}\]"):
        async with opened():
            pass
    async with opened("echo=echo") as providers:
        assert isinstance(providers.provider_for("echo"), Echo)


def test_the_sdks_are_imported_by_those_only_who_use_them() -> None:
    program = (
        "import sys, services.agent.providers.routing, services.agent.settings;"
        "sys.exit(bool({'anthropic', 'openai', 'httpx2'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_routes_are_read_in_their_order() -> None:
    assert parse_routes("a=b*=echo , *=openai") == (Route("a=b*", "echo"), Route("*", "openai"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("agent_model_routes", "", "must be like `claude-*=anthropic,*=openai`, and '' is not `pattern=provider`"),
        ("agent_model_routes", "*=echo,", "'' is not `pattern=provider`"),
        ("agent_model_routes", "=echo", "'=echo' is not `pattern=provider`"),
        ("agent_model_routes", "gpt-*", "'gpt-*' is not `pattern=provider`"),
        ("agent_model_routes", "*=llama", "has 'llama' in '*=llama', and the providers are echo, anthropic, openai"),
        ("agent_anthropic_api_key", "sk-two\nlines", "must be of printable ASCII characters"),
        ("agent_openai_api_key", "sk-schlüssel", "must be of printable ASCII characters"),
        ("agent_anthropic_base_url", "localhost:8000", "must be a URL such as"),
        ("agent_openai_base_url", "http://", "must be a URL such as"),
        ("agent_openai_base_url", "http://me:hunter2@host:port", "must be a URL such as"),
        ("agent_echo_delay_ms", -1, "greater than or equal to 0"),
        ("agent_provider_silence", 0, "greater than 0"),
        ("agent_provider_retries", 11, "less than or equal to 10"),
    ],
)
def test_a_wrong_setting_is_told_clearly(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        agent_settings(**{field: value})
    (problem,) = caught.value.errors()
    assert problem["loc"] == (field,)
    assert message in problem["msg"]
    for secret in ("sk-", "hunter2"):
        assert secret not in problem["msg"]


def test_keys_are_in_no_repr() -> None:
    settings = agent_settings(agent_anthropic_api_key=KEY, agent_openai_api_key=KEY)
    assert KEY not in repr(settings)
    assert KEY not in repr(HERE)
