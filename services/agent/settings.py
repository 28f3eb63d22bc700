"""What can be set for the agent service."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from services.agent.providers.routes import Route, parse_routes
from services.agent.tools.servers import parse_servers
from services.kit.settings import DatabaseSettings, FileTargetSettings, Port, Seconds

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


def _mcp_servers(servers: SecretStr) -> SecretStr:
    try:
        parse_servers(servers.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError("mcp_servers", "{why}", {"why": str(error)}) from None
    return servers


ModelRoutes = Annotated[str, AfterValidator(_routes)]
ApiKey = Annotated[SecretStr, AfterValidator(_api_key)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
McpServers = Annotated[SecretStr, AfterValidator(_mcp_servers)]


class AgentSettings(FileTargetSettings):
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
    agent_mcp_servers: McpServers = Field(
        SecretStr(""),
        description="MCP servers whose tools agents may use, by streamable HTTP: `name=url`, with commas between.",
    )
    agent_tool_seconds: Seconds = Field(30.0, description="Seconds that a tool may take to answer.")
    agent_max_tool_rounds: int = Field(
        16, ge=1, le=1000, description="Times that a model may use tools, one or several at a time, in one execution."
    )

    agent_max_running: int = Field(200, ge=1, le=10_000, description="Executions that one process runs at a time.")
    agent_max_running_per_user: int = Field(
        20, ge=1, le=10_000, description="Executions of one user that run at a time, over all processes."
    )
    agent_max_open_per_user: int = Field(
        1000, ge=1, le=100_000, description="Executions of one user that wait or run at a time."
    )
    agent_run_seconds: Seconds = Field(
        3600.0, description="Seconds that an execution may run at the most, whatever its budget says."
    )
    agent_heartbeat_seconds: Seconds = Field(1.5, description="Seconds between two heartbeats.")
    agent_lease_seconds: Seconds = Field(
        10.0, description="Seconds without a heartbeat after which a process's executions are another's."
    )
    agent_unwatched_seconds: Seconds = Field(
        10.0, description="Seconds that an execution with `on_disconnect` CANCEL goes on though nobody watches it."
    )

    @field_validator("agent_lease_seconds")
    @classmethod
    def _longer_than_heartbeats(cls, value: float, info: ValidationInfo) -> float:
        if value < 3 * info.data.get("agent_heartbeat_seconds", 0):
            raise ValueError("must be at least three times PARLEY_AGENT_HEARTBEAT_SECONDS")
        return value

    @property
    def mcp_servers(self) -> Mapping[str, str]:
        """The URLs of the MCP servers, by name."""
        return parse_servers(self.agent_mcp_servers.get_secret_value())

    @property
    def model_routes(self) -> tuple[Route, ...]:
        """Which provider runs which models."""
        return parse_routes(self.agent_model_routes)

    @property
    def deleted_agent_kept(self) -> timedelta:
        """How long a deleted agent can be undeleted."""
        return timedelta(seconds=self.agent_deleted_after)


class AgentJobSettings(DatabaseSettings):
    """What only the jobs of agents need."""

    agent_events_kept: Years = Field(
        30 * 86_400.0, description="Seconds that the events of an execution are kept after its end; its output stays."
    )
