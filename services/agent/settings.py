"""What can be set for the agent service."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from services.kit.settings import Port, ServiceSettings

Years = Annotated[float, Field(gt=0, le=10 * 365 * 86_400)]


class AgentSettings(ServiceSettings):
    """Settings of the agent service."""

    agent_port: Port = Field(50052, description="Port of the agent service.")
    agent_max_per_user: int = Field(1000, ge=1, le=1_000_000, description="Agents that one user may have at a time.")
    agent_deleted_after: Years = Field(
        30 * 86_400.0, description="Seconds that a deleted agent can be undeleted; then it is removed for good."
    )

    @property
    def deleted_agent_kept(self) -> timedelta:
        """How long a deleted agent can be undeleted."""
        return timedelta(seconds=self.agent_deleted_after)
