"""What an attempt at an execution does: it asks the model, uses the tools that it wants, and asks again."""

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol

import structlog

from services.agent.domain.inputs import read_turns
from services.agent.domain.journal import Journal
from services.agent.errors import (
    MaxTokensReached,
    ModelDeclined,
    OutputTooLarge,
    ProviderGarbled,
    ProviderInterrupted,
    ProviderOverloaded,
    ProviderRefused,
    ProviderSilent,
    ProviderUnavailable,
    RunFailure,
    RunInterrupted,
    ToolsUnavailable,
    TooManyToolRounds,
)
from services.agent.models.agents import Revision
from services.agent.models.events import ToolCall, ToolResult, UsageChanged
from services.agent.models.executions import Execution
from services.agent.providers import (
    AssistantTurn,
    Fault,
    Prompt,
    Provider,
    ProviderFailure,
    Stopped,
    StopReason,
    Text,
    ToolOutcome,
    ToolSpec,
    ToolTurn,
    ToolUse,
    Turn,
    Usage,
)
from services.agent.repository.agents import AgentRows
from services.agent.tools import ToolAnswer, ToolBox, Tools
from services.agent.tools import ToolsUnavailable as NoSuchTools
from services.agent.tools.names import tool_names
from services.kit.database import Database
from services.kit.follower import until_available

log = structlog.get_logger()

MAX_OUTPUT_BYTES = 1024 * 1024
MAX_TOOL_USE_BYTES = 256 * 1024
"""As JSON, of all tools that an answer wants. As a Struct, that is far below the 4 MiB that a gRPC client takes."""
MAX_ARGUMENTS_DEPTH = 32
"""A message that is nested deeper than 100 levels cannot be read, and a level of JSON is two or three of those."""
MAX_NAME_SAID = 64

_FAULTS: Mapping[Fault, type[RunFailure]] = {
    Fault.UNAVAILABLE: ProviderUnavailable,
    Fault.OVERLOADED: ProviderOverloaded,
    Fault.REFUSED: ProviderRefused,
    Fault.INTERRUPTED: ProviderInterrupted,
    Fault.SILENT: ProviderSilent,
    Fault.GARBLED: ProviderGarbled,
}


class Providers(Protocol):
    """The ways to models that this installation has."""

    def provider_for(self, model_name: str) -> Provider | None:
        """Who runs this model; None if nobody does."""


class Rounds:
    """Runs executions, each in the task of its caller, which may be cancelled."""

    def __init__(self, db: Database, providers: Providers, tools: Tools, *, max_rounds: int) -> None:
        self._db = db
        self._providers = providers
        self._tools = tools
        self._max_rounds = max_rounds

    async def run(self, execution: Execution, journal: Journal) -> None:
        """Answer an execution's input into the journal of the attempt. Raises RunFailure, and LeaseLost."""
        agent = await until_available(partial(self._find_agent, execution))
        if agent is None:  # The agent is being removed, and the execution with it.
            raise RunInterrupted
        provider = self._providers.provider_for(agent.model_name)
        if provider is None:  # There was one when the execution was created.
            raise ProviderUnavailable
        read = partial(read_turns, self._db, execution, takes_images=provider.takes_images)
        turns = list(await until_available(read))
        async with self._toolbox(agent.config) as box:
            answering = _Answering(provider, agent, journal, execution.max_tokens, box.specs)
            for _ in range(self._max_rounds):
                answer = await answering.ask(turns)
                if not answer.tool_uses:
                    return
                turns += [answer, await self._use(box, answer.tool_uses, journal)]
            raise TooManyToolRounds

    async def _find_agent(self, execution: Execution) -> Revision | None:
        async with self._db.read() as tx:
            return await AgentRows(tx).get_revision(execution.agent_id, execution.agent_revision)

    @asynccontextmanager
    async def _toolbox(self, config: Mapping[str, Any]) -> AsyncIterator[ToolBox]:
        names = tool_names(config)
        if not names:
            yield _NoTools()
            return
        try:
            async with self._tools.open(names) as box:
                yield box
        except NoSuchTools as error:
            log.warning("tools are unavailable", why=str(error))
            raise ToolsUnavailable(storable(str(error))) from error

    async def _use(self, box: ToolBox, uses: Sequence[ToolUse], journal: Journal) -> ToolTurn:
        """Use tools, once it is stored that they are used: they may have effects, and are not used a second time."""
        for use in uses:
            journal.write(ToolCall(use.id, use.name, use.arguments))
        await journal.settle()
        outcomes = []
        for use in uses:
            answer = await box.use(use.name, use.arguments)
            outcome = ToolOutcome(use.id, storable(answer.text), is_error=answer.is_error)
            journal.write(ToolResult(use.id, outcome.is_error, outcome.text))
            outcomes.append(outcome)
        return ToolTurn(tuple(outcomes))


class _Answering:
    """The answers of one model to one execution, with what they may use."""

    def __init__(
        self, provider: Provider, agent: Revision, journal: Journal, max_tokens: int | None, tools: Sequence[ToolSpec]
    ) -> None:
        self._provider = provider
        self._agent = agent
        self._journal = journal
        self._max_tokens = max_tokens
        self._tools = tools
        self._input_tokens = self._output_tokens = 0
        self._use_ids: set[str] = set()

    async def ask(self, turns: Sequence[Turn]) -> AssistantTurn:
        """Ask once; the answer, whose text is in the journal. Raises RunFailure, LeaseLost."""
        left = None if self._max_tokens is None else self._max_tokens - self._output_tokens
        if left is not None and left <= 0:
            raise MaxTokensReached
        agent = self._agent
        prompt = Prompt(
            agent.model_name, agent.system_prompt, tuple(turns), self._tools, max_tokens=left, options=agent.config
        )
        heard = _Heard()
        try:
            async with self._provider.answer(prompt) as pieces:
                async for piece in pieces:
                    await self._hear(piece, heard, left)
        except ProviderFailure as failure:
            log.warning("provider failed", model=agent.model_name, fault=failure.fault.value, why=str(failure))
            raise _FAULTS[failure.fault] from failure
        finally:
            self._count(heard)
        if heard.stop == StopReason.MAX_TOKENS:
            raise MaxTokensReached
        if heard.stop == StopReason.REFUSAL:
            raise ModelDeclined
        return AssistantTurn("".join(heard.texts), tuple(heard.uses))

    async def _hear(self, piece: object, heard: "_Heard", left: int | None) -> None:
        match piece:
            case Text():
                heard.deltas += 1
                if left is not None and heard.deltas > left:  # A delta has a token at the least.
                    raise MaxTokensReached
                text = storable(piece.text)
                kept = _beginning(text, MAX_OUTPUT_BYTES - self._journal.size)
                if kept:
                    heard.texts.append(kept)
                    self._journal.write_text(kept)
                if len(kept) < len(text):
                    raise OutputTooLarge
                if self._journal.is_full or self._journal.lost:
                    await self._journal.settle()
            case ToolUse():
                use_id = self._own_id(storable(piece.id))
                use = ToolUse(use_id, storable(piece.name), _storable_object(piece.arguments))
                heard.tool_use_bytes += len(json.dumps([use.id, use.name, use.arguments], ensure_ascii=False).encode())
                if heard.tool_use_bytes > MAX_TOOL_USE_BYTES:
                    raise ProviderFailure(Fault.GARBLED, "too much for tools in one answer")
                heard.uses.append(use)
            case Usage():
                heard.usage = piece
            case Stopped():
                heard.stop = piece.reason

    def _own_id(self, use_id: str) -> str:
        """The id of a use that no other has in this execution: some servers begin to count anew in every answer."""
        own, number = use_id, 1
        while own in self._use_ids:
            number += 1
            own = f"{use_id}_{number}"
        self._use_ids.add(own)
        return own

    def _count(self, heard: "_Heard") -> None:
        """Add what one answer has used. Where the provider has not said, a delta is taken for a token."""
        usage = heard.usage or Usage(0, heard.deltas)
        self._input_tokens += usage.input_tokens
        self._output_tokens += max(usage.output_tokens, 0)
        if not self._journal.lost:
            self._journal.write(UsageChanged(self._input_tokens, self._output_tokens))


class _Heard:
    """What has come of one answer."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.uses: list[ToolUse] = []
        self.tool_use_bytes = 0
        self.deltas = 0
        self.usage: Usage | None = None
        self.stop = StopReason.END


class _NoTools:
    """The tools of an agent that names none."""

    specs: Sequence[ToolSpec] = ()

    async def use(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:  # noqa: ARG002  # as ToolBox has it
        """See ToolBox.use: a model may make up a tool."""
        return ToolAnswer(f"there is no tool {name[:MAX_NAME_SAID]!r}", is_error=True)


def storable(text: str) -> str:
    """A text as PostgreSQL and UTF-8 take it: without U+0000 and halves of surrogate pairs."""
    if text.isascii():
        return text.replace("\0", "\ufffd")
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _beginning(text: str, size: int) -> str:
    """As much of a text as has at most this size in UTF-8."""
    return text if 4 * len(text) <= size else text.encode()[:size].decode(errors="ignore")


def _storable_object(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as PostgreSQL and a Struct take them. Raises ProviderFailure where they do not."""
    return {storable(key): _storable_json(item, depth=2) for key, item in arguments.items()}


def _storable_json(value: Any, depth: int) -> Any:
    match value:
        case dict() | list() if depth > MAX_ARGUMENTS_DEPTH:
            raise ProviderFailure(Fault.GARBLED, "arguments for a tool are nested too deep")
        case int() | float() if not abs(value) <= sys.float_info.max:
            raise ProviderFailure(Fault.GARBLED, "arguments for a tool hold a number that is too large")
        case str():
            return storable(value)
        case dict():
            return {storable(key): _storable_json(item, depth + 1) for key, item in value.items()}
        case list():
            return [_storable_json(item, depth + 1) for item in value]
        case _:
            return value
