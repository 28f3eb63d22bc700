"""Anthropic's Messages API, through the official SDK of the extra `anthropic`."""

import base64
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from services.agent.providers import (
    AssistantTurn,
    Fault,
    Image,
    Piece,
    Prompt,
    Stopped,
    StopReason,
    Text,
    ToolTurn,
    Turn,
    Usage,
    UserTurn,
)
from services.agent.providers.failures import RemoteFailure
from services.agent.providers.options import number, strings
from services.agent.providers.remote import (
    Events,
    RemoteProvider,
    any_number_of_connections,
    expect_count,
    expect_text,
    timeouts,
    transport_errors,
)
from services.agent.providers.tool_uses import ToolUses
from services.kit.settings import SettingUnusable

if TYPE_CHECKING:
    from anthropic import AsyncStream
    from anthropic.types import MessageDeltaUsage, RawMessageStreamEvent
    from anthropic.types import Usage as MessageUsage

DEFAULT_BASE_URL = "https://api.anthropic.com"
DEFAULT_MAX_TOKENS = 4096
"""What a model may answer with when nobody says: the API wants a limit."""

_STOP_REASONS = {
    "end_turn": StopReason.END,
    "stop_sequence": StopReason.END,
    "tool_use": StopReason.TOOL_USE,
    "max_tokens": StopReason.MAX_TOKENS,
    "model_context_window_exceeded": StopReason.MAX_TOKENS,
    "refusal": StopReason.REFUSAL,
}
# Errors within a stream come with status 200, and these are whose fault they are.
_STATUS_OF_ERROR = {
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
}


class Anthropic(RemoteProvider["RawMessageStreamEvent"]):
    """Models of Anthropic, or of whoever speaks its API at `base_url`. Without a key none is sent.

    `silence` is how many seconds nothing may come, `retries` how often it asks again before the first piece.
    Construction raises SettingUnusable when the extra is not installed.
    """

    def __init__(self, *, api_key: str | None, base_url: str | None, silence: float, retries: int) -> None:
        super().__init__("anthropic", api_key=api_key, retries=retries)
        try:
            import anthropic  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as missing:
            raise SettingUnusable(
                "PARLEY_AGENT_ANTHROPIC_API_KEY or PARLEY_AGENT_ANTHROPIC_BASE_URL is set,"
                " which needs the extra `anthropic`: pip install 'parley[anthropic]'"
            ) from missing
        self._sdk = anthropic
        self._headers = {} if api_key else {"Authorization": anthropic.omit}
        limit = timeouts(silence)
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key or "",  # not None: the SDK would look for one in the environment
            base_url=base_url or DEFAULT_BASE_URL,
            timeout=limit,
            max_retries=0,
            http_client=anthropic.DefaultAsyncHttpxClient(timeout=limit, limits=any_number_of_connections()),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._sdk.APIError, *transport_errors())

    def _request(self, prompt: Prompt) -> Mapping[str, Any]:
        return to_request(prompt)

    async def _open(self, request: Mapping[str, Any]) -> AbstractAsyncContextManager[Events["RawMessageStreamEvent"]]:
        events: AsyncStream[RawMessageStreamEvent] = await self._client.messages.create(
            **request, stream=True, extra_headers=self._headers
        )
        return events

    def _reader(self) -> "_Reader":
        return _Reader()

    def _status(self, error: Exception) -> int | None:
        if not isinstance(error, self._sdk.APIStatusError):
            return None
        if error.status_code < 400:
            return _STATUS_OF_ERROR.get(str(error.type), 500)
        return error.status_code


class _Reader:
    """Makes pieces of the events of one message."""

    def __init__(self) -> None:
        self.is_whole = False
        self._input = self._output = 0
        self._has_told_usage = False
        self._tools = ToolUses()
        self._reason: str | None = None

    def read(self, event: "RawMessageStreamEvent") -> Iterable[Piece]:
        """The pieces that this event completes. Kinds of events that are not known here are nothing."""
        if event.type == "message_start":
            self._count(event.message.usage)
        elif event.type == "content_block_start":
            # The message itself is not told of: an overload that comes right behind it is no reason to give up.
            if not self._has_told_usage:
                self._has_told_usage = True
                yield Usage(self._input, self._output)
            block = event.content_block
            if block.type == "tool_use":
                self._tools.add(event.index, expect_text(block.id), expect_text(block.name))
            elif block.type == "text" and block.text:
                yield Text(expect_text(block.text))
        elif event.type == "content_block_delta":
            if event.delta.type == "text_delta":
                if text := expect_text(event.delta.text):
                    yield Text(text)
            elif event.delta.type == "input_json_delta":
                self._tools.add(event.index, arguments=expect_text(event.delta.partial_json))
        elif event.type == "message_delta":
            self._count(event.usage)
            self._reason = event.delta.stop_reason or self._reason
        elif event.type == "message_stop":
            self.is_whole = True

    def end(self) -> Iterable[Piece]:
        """The tools that are wanted, what was used, and why the message ended."""
        if not self.is_whole:
            raise RemoteFailure(Fault.INTERRUPTED, "the stream ended before message_stop")
        reason = _STOP_REASONS.get(self._reason or "", StopReason.END)
        # What ran into the limit may have been the arguments for a tool.
        if reason is StopReason.TOOL_USE:
            yield from self._tools.whole()
        yield Usage(self._input, self._output)
        yield Stopped(reason)

    def _count(self, usage: "MessageUsage | MessageDeltaUsage | None") -> None:
        """Take over the counts, each of which is of all so far. Servers of others may leave them out."""
        if usage is None:
            return
        if usage.input_tokens is not None:
            cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
            self._input = expect_count(usage.input_tokens) + cached
        self._output = expect_count(usage.output_tokens)


def to_request(prompt: Prompt) -> dict[str, Any]:
    """The arguments of `messages.create`. Raises ProviderFailure where the agent's config is of the wrong type."""
    request: dict[str, Any] = {
        "model": prompt.model,
        "max_tokens": DEFAULT_MAX_TOKENS if prompt.max_tokens is None else prompt.max_tokens,
        "messages": [message for turn in prompt.turns if (message := _message(turn))["content"]],
    }
    if prompt.system:
        request["system"] = prompt.system
    if prompt.tools:
        request["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in prompt.tools
        ]
    if stop := strings(prompt.options, "stop"):
        request["stop_sequences"] = stop
    # The SDK does not know these any more, as the newest models do not; older ones do, and the others refuse them.
    sampling = {name: number(prompt.options, name) for name in ("temperature", "top_p")}
    if given := {name: value for name, value in sampling.items() if value is not None}:
        request["extra_body"] = given
    return request


def _message(turn: Turn) -> dict[str, Any]:
    # Text without anything to see is refused in a block.
    match turn:
        case UserTurn(text=text, images=images):
            said = [{"type": "text", "text": text}] if text.strip() or not images else []
            return {"role": "user", "content": [*map(_image, images), *said]}
        case AssistantTurn(text=text, tool_uses=uses):
            said = [{"type": "text", "text": text}] if text.strip() else []
            wanted = [
                {"type": "tool_use", "id": use.id, "name": use.name, "input": dict(use.arguments)} for use in uses
            ]
            return {"role": "assistant", "content": [*said, *wanted]}
        case ToolTurn(outcomes=outcomes):
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": outcome.tool_use_id,
                    "content": outcome.text,
                    "is_error": outcome.is_error,
                }
                for outcome in outcomes
            ]
            return {"role": "user", "content": results}


def _image(image: Image) -> dict[str, Any]:
    data = base64.b64encode(image.data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": image.content_type, "data": data}}
