"""Tools that models may use, behind one small protocol.

An agent names its tools in `config.tools`, each as `server.tool`, or `server.*` for all of a server's. A ToolBox holds
those of one execution.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from services.agent.providers import ToolSpec


class ToolsUnavailable(Exception):
    """Tools that the agent names cannot be had: their server is not there, or has no such tool. For logs and owners."""


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool answered, or why it did not."""

    text: str
    is_error: bool = False


class ToolBox(Protocol):
    """The tools of one execution."""

    @property
    def specs(self) -> Sequence[ToolSpec]:
        """What the model is told of them."""

    async def use(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:
        """Use a tool by the name in its spec. It never raises but for cancellation.

        A tool that fails, hangs longer than the limit, or does not exist is an answer with `is_error`.
        """


class Tools(Protocol):
    """Where tools come from."""

    @property
    def servers(self) -> frozenset[str]:
        """The names of the servers that there are."""

    def open(self, names: Sequence[str]) -> AbstractAsyncContextManager[ToolBox]:
        """The tools of these names, as in `config.tools`. Opening raises ToolsUnavailable.

        The block is entered and left by the same task, which may be cancelled in it.
        """
