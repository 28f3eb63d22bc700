"""What `parley up` reads from the environment."""

from collections.abc import Mapping

from pydantic import Field

from services.agent.settings import AgentJobSettings, AgentSettings
from services.auth.settings import AuthJobSettings, AuthSettings
from services.chat.settings import ChatSettings
from services.file.settings import FileJobSettings, FileSettings
from services.kit.settings import DatabaseUrl


class SuiteSettings(
    AuthSettings, AgentSettings, FileSettings, ChatSettings, AuthJobSettings, AgentJobSettings, FileJobSettings
):
    """The settings of all services and their jobs at once, so that a wrong one is said before anything is started."""

    database_url: DatabaseUrl | None = Field(  # type: ignore[assignment]  # only `parley up` can do without
        None, description="PostgreSQL 15 or later; when unset, `parley up` brings its own."
    )

    @property
    def ports(self) -> Mapping[str, int]:
        """The port of each service."""
        return {"auth": self.auth_port, "agent": self.agent_port, "file": self.file_port, "chat": self.chat_port}
