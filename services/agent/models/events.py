"""What an execution does, event by event."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeAlias
from uuid import UUID

from services.agent.models.executions import Failure, State


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The execution came into another state."""

    kind: ClassVar = "state"
    state: State
    failure: Failure | None = None


@dataclass(slots=True)
class TextDelta:
    """Some text of the answer; `at` is how many bytes of UTF-8 stand before it."""

    kind: ClassVar = "text"
    at: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants a tool to be called."""

    kind: ClassVar = "tool_call"
    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool was called."""

    kind: ClassVar = "tool_result"
    id: str
    is_error: bool
    text: str


@dataclass(frozen=True, slots=True)
class UsageChanged:
    """What the attempt has used so far, in tokens."""

    kind: ClassVar = "usage"
    input_tokens: int
    output_tokens: int


Body: TypeAlias = StateChanged | TextDelta | ToolCall | ToolResult | UsageChanged


class Event:
    """Something that an execution did."""

    __slots__ = ("attempt", "body", "create_time", "encoded", "execution_id", "position")

    def __init__(self, execution_id: UUID, position: int, attempt: int, create_time: datetime, body: Body) -> None:
        self.execution_id = execution_id
        self.position = position
        """Its number in the execution."""
        self.attempt = attempt
        self.create_time = create_time
        self.body = body
        self.encoded: bytes | None = None
        """What the mapping has made of it, once for all who follow."""

    @property
    def is_last(self) -> bool:
        """Whether the execution has ended with it."""
        return isinstance(self.body, StateChanged) and self.body.state.is_final
