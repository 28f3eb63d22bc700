"""What can be set for the agent service."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from services.kit.settings import Port, Seconds, ServiceSettings

Years = Annotated[float, Field(gt=0, le=10 * 365 * 86_400)]

_SERVER_NAME = re.compile(r"[a-z0-9_-]{1,32}")


def _servers(written: str) -> dict[str, str]:
    """URLs by name. The texts of what it raises repeat no URL: there may be a key in it."""
    servers: dict[str, str] = {}
    for part in written.split(",") if written.strip() else ():
        name, equals, url = part.strip().partition("=")
        if not equals or not _SERVER_NAME.fullmatch(name):
            raise ValueError(
                "must be name=url, or several with commas between; a name has 1 to 32 of a-z, 0-9, _ and -"
            )
        if not _is_http(url):
            raise ValueError(f"the URL of {name} must be one such as http://host:8000/mcp or https://host/mcp")
        if name in servers:
            raise ValueError(f"{name} is there twice")
        servers[name] = url
    return servers


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:
        return False


def _readable(servers: SecretStr) -> SecretStr:
    try:
        _servers(servers.get_secret_value())
    except ValueError as error:
        raise PydanticCustomError("mcp_servers", "{why}", {"why": str(error)}) from None
    return servers


McpServers = Annotated[SecretStr, AfterValidator(_readable)]


class AgentSettings(ServiceSettings):
    """Settings of the agent service."""

    agent_port: Port = Field(50052, description="Port of the agent service.")
    agent_max_per_user: int = Field(1000, ge=1, le=1_000_000, description="Agents that one user may have at a time.")
    agent_deleted_after: Years = Field(
        30 * 86_400.0, description="Seconds that a deleted agent can be undeleted; then it is removed for good."
    )
    agent_mcp_servers: McpServers = Field(
        SecretStr(""),
        description="MCP servers whose tools agents may use, by streamable HTTP: `name=url`, with commas between.",
    )
    agent_tool_seconds: Seconds = Field(30.0, description="Seconds that a tool may take to answer.")
    agent_max_tool_rounds: int = Field(
        16, ge=1, le=1000, description="Times that a model may use tools, one or several at a time, in one execution."
    )

    @property
    def deleted_agent_kept(self) -> timedelta:
        """How long a deleted agent can be undeleted."""
        return timedelta(seconds=self.agent_deleted_after)

    @property
    def mcp_servers(self) -> Mapping[str, str]:
        """The URLs of the MCP servers, by name."""
        return _servers(self.agent_mcp_servers.get_secret_value())
