"""The two wire formats that the tests' provider server speaks: what of a script goes into the body of an answer."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from tests.agent.providers.script import Beat, Call, Raw, Script, Status, Step, Stop, StreamError, Used

_MESSAGES_REASONS = {"end": "end_turn"}
_MESSAGES_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_COMPLETIONS_REASONS = {"end": "stop", "tool_use": "tool_calls", "max_tokens": "length", "refusal": "content_filter"}


class Wire(ABC):
    """One answer in a wire format."""

    def __init__(self, script: Script, model: str) -> None:
        self._model = model
        self._used = next((step for step in script if isinstance(step, Used)), None)

    def events(self, step: Step) -> Iterator[bytes]:
        """What a step that only says something is in this format, event by event."""
        match step:
            case Call():
                yield from self.call(step)
            case Stop():
                yield from self.stop(step)
            case StreamError():
                yield self.error(step)
            case Beat():
                yield self.beat()
            case Raw(data=data):
                yield data

    @abstractmethod
    def begin(self) -> Iterator[bytes]:
        """What comes first."""

    @abstractmethod
    def text(self, part: str) -> Iterator[bytes]:
        """Some text."""

    @abstractmethod
    def call(self, call: Call) -> Iterator[bytes]:
        """The fragments of a tool call."""

    @abstractmethod
    def beat(self) -> bytes:
        """A sign of life."""

    @abstractmethod
    def error(self, error: StreamError) -> bytes:
        """An error within the stream."""

    @abstractmethod
    def stop(self, stop: Stop) -> Iterator[bytes]:
        """What comes last."""

    @staticmethod
    @abstractmethod
    def status(status: Status) -> Mapping[str, Any]:
        """The body of an error instead of a stream."""


class MessagesWire(Wire):
    """Anthropic's `POST /v1/messages`."""

    def __init__(self, script: Script, model: str) -> None:
        super().__init__(script, model)
        self._index = 0
        self._in_text = False

    def begin(self) -> Iterator[bytes]:
        message: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        if self._used:
            message["usage"] = {"input_tokens": self._used.input_tokens, "output_tokens": 1}
        yield self._event("message_start", message=message)

    def text(self, part: str) -> Iterator[bytes]:
        if not self._in_text:
            self._in_text = True
            yield self._start({"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": part})

    def call(self, call: Call) -> Iterator[bytes]:
        yield from self._end_of_text()
        yield self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        yield self._delta({"type": "input_json_delta", "partial_json": ""})
        for fragment in call.fragments:
            yield self._delta({"type": "input_json_delta", "partial_json": fragment})
        yield self._stop()

    def beat(self) -> bytes:
        return self._event("ping")

    def error(self, error: StreamError) -> bytes:
        return self._event("error", error={"type": error.type, "message": error.message})

    def stop(self, stop: Stop) -> Iterator[bytes]:
        yield from self._end_of_text()
        delta = {"stop_reason": _MESSAGES_REASONS.get(stop.reason, stop.reason), "stop_sequence": None}
        usage = {"usage": {"output_tokens": self._used.output_tokens}} if self._used else {}
        yield self._event("message_delta", delta=delta, **usage)
        yield self._event("message_stop")

    @staticmethod
    def status(status: Status) -> Mapping[str, Any]:
        kind = _MESSAGES_ERRORS.get(status.code, "api_error")
        return {"type": "error", "error": {"type": kind, "message": status.message}}

    def _start(self, block: Mapping[str, Any]) -> bytes:
        return self._event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> bytes:
        self._index += 1
        return self._event("content_block_stop", index=self._index - 1)

    def _end_of_text(self) -> Iterator[bytes]:
        if self._in_text:
            self._in_text = False
            yield self._stop()

    @staticmethod
    def _event(kind: str, **data: Any) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()


class CompletionsWire(Wire):
    """OpenAI's `POST /v1/chat/completions`."""

    def __init__(self, script: Script, model: str) -> None:
        super().__init__(script, model)
        self._calls = 0

    def begin(self) -> Iterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})

    def text(self, part: str) -> Iterator[bytes]:
        yield self._chunk({"content": part})

    def call(self, call: Call) -> Iterator[bytes]:
        where = {"index": self._calls} if call.indexed else {}
        self._calls += 1
        named = {"id": call.id} if call.id else {}
        head = {**where, **named, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield self._chunk({"tool_calls": [head]})
        for fragment in call.fragments:
            yield self._chunk({"tool_calls": [{**where, "function": {"arguments": fragment}}]})

    def beat(self) -> bytes:
        return b": still here\n\n"

    def error(self, error: StreamError) -> bytes:
        return self._data({"error": {"type": error.type, "code": None, "message": error.message}})

    def stop(self, stop: Stop) -> Iterator[bytes]:
        yield self._chunk({}, _COMPLETIONS_REASONS.get(stop.reason, stop.reason))
        if self._used:
            counts = {
                "prompt_tokens": self._used.input_tokens,
                "completion_tokens": self._used.output_tokens,
                "total_tokens": self._used.input_tokens + self._used.output_tokens,
            }
            yield self._data(self._body([], usage=counts))
        yield b"data: [DONE]\n\n"

    @staticmethod
    def status(status: Status) -> Mapping[str, Any]:
        return {"error": {"type": "error", "code": None, "param": None, "message": status.message}}

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        return self._data(self._body([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]))

    def _body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_790_000_000,
            "model": self._model,
            "choices": choices,
            **more,
        }

    @staticmethod
    def _data(data: Mapping[str, Any]) -> bytes:
        return f"data: {json.dumps(data)}\n\n".encode()
