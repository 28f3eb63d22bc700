"""Tools that a model wants to be used, put together from the fragments in which they come."""

import json
from dataclasses import dataclass, field
from typing import NoReturn
from uuid import uuid4

from services.agent.providers import Fault, ProviderFailure, ToolUse


@dataclass(slots=True)
class _Gathered:
    index: int | None
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ToolUses:
    """The tool uses of one answer, in the order in which they began.

    Servers differ in what a fragment says of where it belongs: an index, the id of its use, both, or neither.
    """

    def __init__(self) -> None:
        self._uses: list[_Gathered] = []

    def __bool__(self) -> bool:
        return bool(self._uses)

    def add(self, index: int | None, use_id: str | None = None, name: str | None = None, arguments: str = "") -> None:
        """Take in a fragment."""
        use = self._find(index, use_id, name)
        use.id = use.id or use_id or ""
        use.name = use.name or name or ""
        use.arguments.append(arguments)

    def whole(self) -> list[ToolUse]:
        """All of them. Raises ProviderFailure where one has no name, or arguments that are no JSON object."""
        return [_whole(use) for use in self._uses]

    def _find(self, index: int | None, use_id: str | None, name: str | None) -> _Gathered:
        """The use that a fragment goes on with, or a new one."""
        for use in reversed(self._uses):
            if index is not None and use.index != index:
                continue
            another_id = bool(use_id and use.id and use_id != use.id)
            another_name = bool(index is None and not use_id and name and use.name)
            if another_id or another_name:
                break
            return use
        self._uses.append(_Gathered(index))
        return self._uses[-1]


def _whole(use: _Gathered) -> ToolUse:
    if not use.name:
        raise ProviderFailure(Fault.GARBLED, "a tool use without the name of a tool")
    text = "".join(use.arguments)
    try:
        # A tool without parameters is often called with nothing at all.
        arguments = json.loads(text, parse_constant=_refuse) if text.strip() else {}
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ProviderFailure(Fault.GARBLED, "arguments for a tool that are not a JSON object")
    return ToolUse(use.id or f"call_{uuid4().hex}", use.name, arguments)


def _refuse(constant: str) -> NoReturn:
    """NaN and the infinities are Python's, not JSON's."""
    raise ValueError(constant)
