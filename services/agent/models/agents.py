"""The tables of agents, an agent and a revision as they are read, and what a user can decide about an agent."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypedDict
from uuid import UUID

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from services.agent.models.base import Base, Config


class AgentTable(Base):
    """One row an agent; a deleted one stays until its `purge_time`."""

    __tablename__ = "agents"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    name: Mapped[str]
    description: Mapped[str]
    model_name: Mapped[str]
    system_prompt: Mapped[str]
    config: Mapped[Config]
    is_active: Mapped[bool]
    revision: Mapped[int] = mapped_column(BigInteger)
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    delete_time: Mapped[datetime | None]
    purge_time: Mapped[datetime | None]
    request_id: Mapped[UUID | None]
    draft_digest: Mapped[bytes | None]


class RevisionTable(Base):
    """One row each state in which an agent has been, the present one included."""

    __tablename__ = "revisions"

    agent_id: Mapped[UUID] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    model_name: Mapped[str]
    system_prompt: Mapped[str]
    config: Mapped[Config]
    is_active: Mapped[bool]
    create_time: Mapped[datetime]


# A user, and the id of an agent of theirs.
AgentKey = tuple[UUID, UUID]


class Agent(NamedTuple):
    """An agent. Its fields are columns of AgentTable, so that a row becomes one at no cost."""

    id: UUID
    user_id: UUID
    name: str
    description: str
    model_name: str
    system_prompt: str
    config: Config
    is_active: bool
    revision: int
    create_time: datetime
    update_time: datetime
    delete_time: datetime | None = None
    purge_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Stands for this revision of this agent."""
        return f"{self.revision}-{self.id.hex[-12:]}"


class Revision(NamedTuple):
    """What an agent was at a time. Its fields are columns of RevisionTable."""

    agent_id: UUID
    revision: int
    name: str
    description: str
    model_name: str
    system_prompt: str
    config: Config
    is_active: bool
    create_time: datetime

    @property
    def content(self) -> "Changes":
        """What makes an agent the same again."""
        return {
            "name": self.name,
            "description": self.description,
            "model_name": self.model_name,
            "system_prompt": self.system_prompt,
            "config": self.config,
            "is_active": self.is_active,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """What a user decides about a new agent."""

    name: str
    description: str
    model_name: str
    system_prompt: str
    config: Config
    is_active: bool


class Changes(TypedDict, total=False):
    """The fields of an agent that are to change, with their new values."""

    name: str
    description: str
    model_name: str
    system_prompt: str
    config: Config
    is_active: bool
