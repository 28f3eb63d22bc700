"""What the tests' provider server answers, step by step, in whichever wire format it is asked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Reason: TypeAlias = Literal["end", "tool_use", "max_tokens", "refusal"]


@dataclass(frozen=True)
class Say:
    """Text, each part in an event of its own, `pace` seconds before each."""

    parts: Sequence[str]
    pace: float = 0.0


@dataclass(frozen=True)
class Call:
    """A tool that is to be used, its arguments in these fragments. OpenAI's format can leave out id and index."""

    name: str
    fragments: Sequence[str] = ("{}",)
    id: str | None = "call_1"
    indexed: bool = True

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any], use_id: str | None = "call_1") -> "Call":
        """A call with these arguments, in fragments of 5 characters."""
        text = json.dumps(arguments)
        return cls(name, [text[at : at + 5] for at in range(0, len(text), 5)], use_id)


@dataclass(frozen=True)
class Used:
    """What was used. It may stand anywhere; without it, nothing is said of it."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Stop:
    """The proper end, for this reason. `reason` may also be a word of the wire format's own."""

    reason: Reason | str = "end"


@dataclass(frozen=True)
class Status:
    """This status and an error in JSON. As the only step, instead of a stream."""

    code: int
    message: str = "no"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamError:
    """An error within the stream, whose type is of the wire format's own."""

    type: str
    message: str = "no"


@dataclass(frozen=True)
class Raw:
    """These bytes as they are, within the body."""

    data: bytes


@dataclass(frozen=True)
class Wait:
    """Nothing, for so many seconds: by default, until the client has left."""

    seconds: float = 3600.0


@dataclass(frozen=True)
class Beat:
    """A sign of life that says nothing, as both formats have it."""


@dataclass(frozen=True)
class Cut:
    """The connection breaks. As the first step: before there is an answer."""


@dataclass(frozen=True)
class End:
    """The body ends in good order, whatever has been said until then."""


Step: TypeAlias = Say | Call | Used | Stop | Status | StreamError | Raw | Wait | Beat | Cut | End
Script: TypeAlias = Sequence[Step]


def saying(*parts: str, pace: float = 0.0) -> list[Step]:
    """A whole answer of this text."""
    return [Used(10, len(parts)), Say(parts, pace), Stop()]


def calling(*calls: Call) -> list[Step]:
    """A whole answer that wants these tools to be used."""
    return [Used(10, 5), *calls, Stop("tool_use")]
