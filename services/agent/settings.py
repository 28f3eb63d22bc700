"""What can be set for the agent service."""

from pydantic import Field

from services.kit.settings import Port, ServiceSettings


class AgentSettings(ServiceSettings):
    """Settings of the agent service."""

    agent_port: Port = Field(50052, description="Port of the agent service.")
    agent_max_per_user: int = Field(1000, ge=1, le=1_000_000, description="Agents that one user may have at a time.")
