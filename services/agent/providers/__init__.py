"""Whoever runs a model, behind one small protocol.

A provider answers one prompt with a stream of pieces: text as it comes, the tools that the model wants to be called,
what it used, and why it stopped. What goes wrong on its side is a ProviderFailure. The rounds of an execution, with its
tools and its budget, are the domain's business.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Image:
    """A picture that belongs to what the user says."""

    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class UserTurn:
    """What the user says."""

    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The model wants a tool to be called. Also a piece of an answer, whole."""

    id: str
    """Names this use in the conversation with the model."""
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AssistantTurn:
    """What the model has answered."""

    text: str
    tool_uses: tuple[ToolUse, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What came of one use of a tool."""

    tool_use_id: str
    text: str
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """What came of all uses of tools that the turn before asked for, in their order."""

    outcomes: tuple[ToolOutcome, ...]


Turn: TypeAlias = UserTurn | AssistantTurn | ToolTurn


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that the model may use."""

    name: str
    """1 to 64 letters, digits, `_` and `-`."""
    description: str
    input_schema: Mapping[str, Any]
    """JSON Schema of an object."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked."""

    model: str
    system: str
    turns: Sequence[Turn]
    """The first is a user's, the last a user's or tools'."""
    tools: Sequence[ToolSpec] = ()
    max_tokens: int | None = None
    """The most that it may answer with; None for as much as the model gives."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The agent's config. A provider takes the settings that it knows, such as `temperature`, and leaves the rest."""


@dataclass(frozen=True, slots=True)
class Text:
    """Some text of the answer, not empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What answering this prompt has used so far, in tokens: the last one counts."""

    input_tokens: int
    output_tokens: int


class StopReason(Enum):
    """Why the model stopped."""

    END = "end"
    """It has said all that it wanted."""
    TOOL_USE = "tool_use"
    """It waits for the outcomes of the tools it wants."""
    MAX_TOKENS = "max_tokens"
    """It had said as much as it might."""
    REFUSAL = "refusal"
    """It, or a filter of the provider's, does not want to answer this."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The last piece of every answer that is whole."""

    reason: StopReason


Piece: TypeAlias = Text | ToolUse | Usage | Stopped


class Fault(Enum):
    """What went wrong on a provider's side: `ErrorReason` of the protos without its prefix."""

    UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    """It cannot be reached, or answers with a fault of its own (5xx), also after retries."""
    OVERLOADED = "PROVIDER_OVERLOADED"
    """It has too much to do, or this account asks too much of it (429, 529), also after retries."""
    REFUSED = "PROVIDER_REFUSED"
    """It does not take the prompt: unknown model, wrong key, too long (other 4xx)."""
    INTERRUPTED = "PROVIDER_INTERRUPTED"
    """The answer broke off in the middle."""
    SILENT = "PROVIDER_SILENT"
    """Nothing came for too long."""
    GARBLED = "PROVIDER_GARBLED"
    """What came is not of the protocol."""


class ProviderFailure(Exception):
    """A provider did not give a whole answer. Its text, which may quote the provider, is for logs only."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


class Provider(Protocol):
    """One way to models. It is used by any number of executions at a time."""

    @property
    def takes_images(self) -> bool:
        """Whether a UserTurn may have images."""

    def answer(self, prompt: Prompt) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """Ask, and give the pieces of the answer as they come.

        When the block ends, whether the answer has or not, the provider's request is closed. A wait may be cancelled.
        Pulling raises ProviderFailure. Before the first piece the provider tries again by itself where that helps.
        """
