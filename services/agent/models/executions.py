"""The tables of executions, an execution as it is read, and what a user can decide about one."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from services.agent.models.base import Base, Config


class State(StrEnum):
    """Where an execution is in its life: `ExecutionState` without its prefix."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"

    @property
    def is_final(self) -> bool:
        """Whether the execution has ended."""
        return self not in OPEN


TAKEN = (State.RUNNING, State.CANCELLING)
"""A process has it."""
OPEN = (State.QUEUED, *TAKEN)
"""It has not ended."""


class Overlap(StrEnum):
    """What a new execution does about those of its conversation that have not ended."""

    REJECT = "REJECT"
    QUEUE = "QUEUE"
    CANCEL_PREVIOUS = "CANCEL_PREVIOUS"


class ExecutionTable(Base):
    """One row an execution."""

    __tablename__ = "executions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID]
    agent_id: Mapped[UUID]
    agent_revision: Mapped[int] = mapped_column(BigInteger)
    conversation_id: Mapped[UUID | None]
    input: Mapped[str]
    file_ids: Mapped[list[UUID]]
    max_tokens: Mapped[int | None]
    timeout_seconds: Mapped[float | None]
    cancel_unwatched: Mapped[bool]
    watch_expire_time: Mapped[datetime | None]
    state: Mapped[str]
    output: Mapped[str]
    failure_reason: Mapped[str | None]
    failure_message: Mapped[str | None]
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    last_sequence: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int]
    losses: Mapped[int]
    appended: Mapped[int] = mapped_column(BigInteger)
    has_used_tools: Mapped[bool]
    has_events: Mapped[bool]
    lease_expire_time: Mapped[datetime | None]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]
    start_time: Mapped[datetime | None]
    end_time: Mapped[datetime | None]
    request_id: Mapped[UUID | None]
    draft_digest: Mapped[bytes | None]


class EventTable(Base):
    """One row an event of an execution."""

    __tablename__ = "execution_events"

    execution_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    kind: Mapped[str]
    at: Mapped[int | None] = mapped_column(BigInteger)
    text: Mapped[str | None]
    data: Mapped[Config | None]
    create_time: Mapped[datetime]


class InputFileTable(Base):
    """One row a file that belongs to an execution's input, as it was when the execution was created."""

    __tablename__ = "input_files"

    execution_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[UUID]
    filename: Mapped[str]
    content_type: Mapped[str]
    content: Mapped[bytes]


class Failure(NamedTuple):
    """Why an execution has not succeeded: a value of `ErrorReason` without its prefix, and a text."""

    reason: str
    message: str


class Execution(NamedTuple):
    """An execution. Its fields are columns of ExecutionTable."""

    id: UUID
    user_id: UUID
    agent_id: UUID
    agent_revision: int
    conversation_id: UUID | None
    input: str
    file_ids: list[UUID]
    max_tokens: int | None
    timeout_seconds: float | None
    cancel_unwatched: bool
    state: str
    output: str
    failure_reason: str | None
    failure_message: str | None
    input_tokens: int
    output_tokens: int
    last_sequence: int
    attempt: int
    create_time: datetime
    update_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing happens in it any more."""
        return State(self.state).is_final

    @property
    def failure(self) -> Failure | None:
        """Why it has not succeeded, once it has ended, if there is something to say."""
        if self.failure_reason is None or not self.has_ended:
            return None
        return Failure(self.failure_reason, self.failure_message or "")


class End(NamedTuple):
    """How an attempt at an execution ends it. Its fields are those of a record in JSON."""

    id: UUID
    attempt: int
    state: State
    reason: str | None
    message: str | None
    output: str
    input_tokens: int | None
    """None: as it is known."""
    output_tokens: int | None


class Exchange(NamedTuple):
    """What was said and answered in an earlier execution of a conversation."""

    id: UUID
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that belongs to an execution's input."""

    file_id: UUID
    filename: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class ExecutionDraft:
    """What a user decides about a new execution."""

    agent_id: UUID
    input: str
    file_ids: tuple[UUID, ...]
    conversation_id: UUID | None
    max_tokens: int | None
    timeout: timedelta | None
    overlap: Overlap
    cancel_unwatched: bool

    def canonical(self) -> dict[str, Any]:
        """The same as JSON: equal for equal drafts."""
        return {
            "agent_id": str(self.agent_id),
            "input": self.input,
            "file_ids": [str(file_id) for file_id in self.file_ids],
            "conversation_id": str(self.conversation_id),
            "max_tokens": self.max_tokens,
            "timeout": None if self.timeout is None else self.timeout.total_seconds(),
            "overlap": self.overlap.value,
            "cancel_unwatched": self.cancel_unwatched,
        }
