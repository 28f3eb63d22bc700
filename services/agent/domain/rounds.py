"""What an attempt at an execution does: it asks the model, uses the tools that it wants, and asks again."""

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
            raise ToolsUnavailable(str(error)) from error

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
                if self._journal.size > MAX_OUTPUT_BYTES:
                    raise OutputTooLarge
                text = storable(piece.text)
                heard.texts.append(text)
                self._journal.write_text(text)
                if self._journal.is_full or self._journal.lost:
                    await self._journal.settle()
            case ToolUse():
                heard.uses.append(ToolUse(piece.id, piece.name, _storable_json(piece.arguments)))
            case Usage():
                heard.usage = piece
            case Stopped():
                heard.stop = piece.reason

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
        self.deltas = 0
        self.usage: Usage | None = None
        self.stop = StopReason.END


class _NoTools:
    """The tools of an agent that names none."""

    specs: Sequence[ToolSpec] = ()

    async def use(self, name: str, arguments: Mapping[str, Any]) -> ToolAnswer:  # noqa: ARG002  # as ToolBox has it
        """See ToolBox.use: a model may make up a tool."""
        return ToolAnswer(f"there is no tool {name!r}", is_error=True)


def storable(text: str) -> str:
    """A text as PostgreSQL and UTF-8 take it: without U+0000 and halves of surrogate pairs."""
    if text.isascii():
        return text.replace("\0", "\ufffd")
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _storable_json(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(key): _storable_json(item) for key, item in value.items()}
        case list():
            return [_storable_json(item) for item in value]
        case _:
            return value
