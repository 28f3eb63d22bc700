"""OpenAI's Chat Completions, through the official SDK of the extra `openai`.

Others speak it, too: vLLM, Ollama, llama.cpp and more. What they leave out is no fault where it can be done without.
"""

import base64
import json
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
    from openai import AsyncStream
    from openai.types.chat import ChatCompletionChunk
    from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

DEFAULT_BASE_URL = "https://api.openai.com/v1"

_STOP_REASONS = {
    "stop": StopReason.END,
    "length": StopReason.MAX_TOKENS,
    "tool_calls": StopReason.TOOL_USE,
    "function_call": StopReason.TOOL_USE,
    "content_filter": StopReason.REFUSAL,
}
# Errors within a stream have one of these as their code or type, or a status of HTTP as their code.
_STATUS_OF_ERROR = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
}


class OpenAI(RemoteProvider["ChatCompletionChunk"]):
    """Models of OpenAI, or of whoever speaks its API at `base_url`. Without a key none is sent.

    `silence` is how many seconds nothing may come, `retries` how often it asks again before the first piece.
    Construction raises SettingUnusable when the extra is not installed.
    """

    def __init__(self, *, api_key: str | None, base_url: str | None, silence: float, retries: int) -> None:
        super().__init__("openai", api_key=api_key, retries=retries)
        try:
            import openai  # noqa: PLC0415  # an extra
        except ModuleNotFoundError as missing:
            raise SettingUnusable(
                "PARLEY_AGENT_OPENAI_API_KEY or PARLEY_AGENT_OPENAI_BASE_URL is set,"
                " which needs the extra `openai`: pip install 'parley[openai]'"
            ) from missing
        self._sdk = openai
        self._headers = {} if api_key else {"Authorization": openai.omit}
        # OpenAI's newer models refuse the old name of the limit, and the servers of others may not know the new one.
        self._limit_name = "max_tokens" if base_url else "max_completion_tokens"
        limit = timeouts(silence)
        self._client = openai.AsyncOpenAI(
            api_key=api_key or "none",  # not None: the SDK would look for one in the environment
            base_url=base_url or DEFAULT_BASE_URL,
            timeout=limit,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(timeout=limit, limits=any_number_of_connections()),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return (self._sdk.APIError, *transport_errors())

    def _request(self, prompt: Prompt) -> Mapping[str, Any]:
        return to_request(prompt, self._limit_name)

    async def _open(self, request: Mapping[str, Any]) -> AbstractAsyncContextManager[Events["ChatCompletionChunk"]]:
        chunks: AsyncStream[ChatCompletionChunk] = await self._client.chat.completions.create(
            **request, stream=True, extra_headers=self._headers
        )
        return chunks

    def _reader(self) -> "_Reader":
        return _Reader()

    def _status(self, error: Exception) -> int | None:
        if isinstance(error, self._sdk.APIStatusError):
            return error.status_code
        if not isinstance(error, self._sdk.APIError) or isinstance(error, self._sdk.APIConnectionError):
            return None
        code = str(error.code)
        if code.isdecimal() and 400 <= int(code) < 600:
            return int(code)
        return _STATUS_OF_ERROR.get(code) or _STATUS_OF_ERROR.get(str(error.type), 500)


class _Reader:
    """Makes pieces of the chunks of one completion."""

    # The SDK itself stops at `[DONE]`, and behind the reason to stop the usage is still to come.
    is_whole = False

    def __init__(self) -> None:
        self._usage: Usage | None = None
        self._tools = ToolUses()
        self._reason: str | None = None
        self._has_refused = False

    def read(self, event: "ChatCompletionChunk") -> Iterable[Piece]:
        """The pieces that this chunk completes."""
        if event.usage is not None:
            self._usage = Usage(expect_count(event.usage.prompt_tokens), expect_count(event.usage.completion_tokens))
        for choice in event.choices or ():
            self._reason = choice.finish_reason or self._reason
            delta = choice.delta
            if delta.refusal:
                self._has_refused = True
            for text in (delta.content, delta.refusal):
                if text:
                    yield Text(expect_text(text))
            for call in delta.tool_calls or ():
                self._gather(call)

    def end(self) -> Iterable[Piece]:
        """The tools that are wanted, what was used if the server says, and why the completion ended."""
        if self._reason is None:
            raise RemoteFailure(Fault.INTERRUPTED, "the stream ended before a finish_reason")
        reason = _STOP_REASONS.get(self._reason, StopReason.END)
        if self._has_refused:
            reason = StopReason.REFUSAL
        elif self._tools and reason is StopReason.END:
            reason = StopReason.TOOL_USE  # not every server says so
        # What ran into the limit may have been the arguments for a tool.
        if reason is StopReason.TOOL_USE:
            yield from self._tools.whole()
        if self._usage is not None:
            yield self._usage
        yield Stopped(reason)

    def _gather(self, call: "ChoiceDeltaToolCall") -> None:
        function = call.function
        name, arguments = (function.name, function.arguments) if function is not None else (None, None)
        # What a server leaves out, the SDK may leave out of its object.
        index = getattr(call, "index", None)
        self._tools.add(index, call.id, name, expect_text(arguments or ""))


def to_request(prompt: Prompt, limit_name: str) -> dict[str, Any]:
    """The arguments of `chat.completions.create`. Raises ProviderFailure where the agent's config has wrong types."""
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    request: dict[str, Any] = {
        "model": prompt.model,
        "messages": [*system, *(message for turn in prompt.turns for message in _messages(turn))],
        "stream_options": {"include_usage": True},
    }
    if prompt.max_tokens is not None:
        request[limit_name] = prompt.max_tokens
    if prompt.tools:
        request["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in prompt.tools
        ]
    options = {
        "stop": strings(prompt.options, "stop"),
        "temperature": number(prompt.options, "temperature"),
        "top_p": number(prompt.options, "top_p"),
    }
    return request | {name: value for name, value in options.items() if value is not None}


def _messages(turn: Turn) -> Iterable[dict[str, Any]]:
    match turn:
        case UserTurn(text=text, images=()):
            # As plain text, because not every server takes parts.
            yield {"role": "user", "content": text}
        case UserTurn(text=text, images=images):
            said = [{"type": "text", "text": text}] if text else []
            yield {"role": "user", "content": [*map(_image, images), *said]}
        case AssistantTurn(text=text, tool_uses=()):
            yield {"role": "assistant", "content": text}
        case AssistantTurn(text=text, tool_uses=uses):
            calls = [
                {
                    "id": use.id,
                    "type": "function",
                    "function": {"name": use.name, "arguments": json.dumps(dict(use.arguments))},
                }
                for use in uses
            ]
            yield {"role": "assistant", "content": text or None, "tool_calls": calls}
        case ToolTurn(outcomes=outcomes):
            for outcome in outcomes:
                # There is no other way to say that it failed.
                content = f"Error: {outcome.text}" if outcome.is_error else outcome.text
                yield {"role": "tool", "tool_call_id": outcome.tool_use_id, "content": content}


def _image(image: Image) -> dict[str, Any]:
    data = base64.b64encode(image.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{image.content_type};base64,{data}"}}
