"""What can be set for the agent service."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from services.agent.providers.routes import Route, parse_routes
from services.kit.settings import Port, Seconds, ServiceSettings

Years = Annotated[float, Field(gt=0, le=10 * 365 * 86_400)]


def _routes(text: str) -> str:
    parse_routes(text)
    return text


def _api_key(key: SecretStr) -> SecretStr:
    # It travels in a header, where other characters would fail with every request, in a message that shows them.
    if not all("!" <= character <= "~" for character in key.get_secret_value()):
        raise PydanticCustomError("api_key", "must be of printable ASCII characters without spaces")
    return key


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if url and not known:
        # The value is not repeated: it may hold a password.
        raise PydanticCustomError("base_url", "must be a URL such as https://models.example.com")
    return url


ModelRoutes = Annotated[str, AfterValidator(_routes)]
ApiKey = Annotated[SecretStr, AfterValidator(_api_key)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]


class AgentSettings(ServiceSettings):
    """Settings of the agent service."""

    agent_port: Port = Field(50052, description="Port of the agent service.")
    agent_max_per_user: int = Field(1000, ge=1, le=1_000_000, description="Agents that one user may have at a time.")
    agent_deleted_after: Years = Field(
        30 * 86_400.0, description="Seconds that a deleted agent can be undeleted; then it is removed for good."
    )
    agent_model_routes: ModelRoutes = Field(
        "echo*=echo,claude-*=anthropic,gpt-*=openai,o[0-9]*=openai",
        description="Which provider runs which models: the first pattern that an agent's model_name matches decides.",
    )
    agent_echo_delay_ms: int = Field(
        20, ge=0, le=10_000, description="Milliseconds between the words of the built-in provider `echo`."
    )
    agent_anthropic_api_key: ApiKey | None = Field(None, description="Key for the provider `anthropic`.")
    agent_anthropic_base_url: BaseUrl = Field(
        "", description="Another server that speaks Anthropic's API, without its `/v1`; it may need no key."
    )
    agent_openai_api_key: ApiKey | None = Field(None, description="Key for the provider `openai`.")
    agent_openai_base_url: BaseUrl = Field(
        "",
        description="Another server that speaks OpenAI's API, such as vLLM or Ollama, with its `/v1`;"
        " it may need no key.",
    )
    agent_provider_silence: Seconds = Field(60.0, description="Seconds that a provider may send nothing.")
    agent_provider_retries: int = Field(
        2, ge=0, le=10, description="Times that a provider is asked again before the first piece of its answer."
    )

    @property
    def model_routes(self) -> tuple[Route, ...]:
        """Which provider runs which models."""
        return parse_routes(self.agent_model_routes)

    @property
    def deleted_agent_kept(self) -> timedelta:
        """How long a deleted agent can be undeleted."""
        return timedelta(seconds=self.agent_deleted_after)
