"""What an execution does, as the streams that follow it are told."""

from collections.abc import Iterator, Sequence

from parley.agent.v1 import execution_service_pb2 as pb2
from services.agent.mapping.executions import to_failure, to_state
from services.agent.models.events import Event, StateChanged, TextDelta, ToolCall, ToolResult, UsageChanged
from services.kit.feed import CaughtUp, Gap
from services.kit.structs import fill
from services.kit.timestamps import stamp

# Far below the 4 MiB that a gRPC client takes by default.
MAX_EVENTS_BYTES = 512 * 1024


def to_responses(notice: Sequence[Event] | CaughtUp | Gap) -> Iterator[bytes]:
    """What a stream is told, serialised. The fields have the same numbers in the responses of both."""
    if isinstance(notice, CaughtUp):
        yield pb2.WatchExecutionResponse(caught_up=pb2.CaughtUp(sequence=notice.position)).SerializeToString()
    elif isinstance(notice, Gap):
        gap = pb2.Gap(first_sequence=notice.first, last_sequence=notice.last)
        yield pb2.WatchExecutionResponse(gap=gap).SerializeToString()
    else:
        yield from _joined(notice)


def _joined(events: Sequence[Event]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    for event in events:
        part = _encoded(event)
        if parts and size + len(part) > MAX_EVENTS_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
        parts.append(part)
        size += len(part)
    yield b"".join(parts)


def _encoded(event: Event) -> bytes:
    """An event as a part of the serialised field `events`, made once however many streams it goes to.

    That field is number 1 in the responses of both streams. Serialised messages of one type that stand one behind the
    other parse as one message with all that they say: a response is such parts, joined.
    """
    if event.encoded is None:
        out = pb2.WatchExecutionResponse()
        _write(out.events.add(), event)
        event.encoded = out.SerializeToString()
    return event.encoded


def _write(out: pb2.ExecutionEvent, event: Event) -> None:
    out.sequence = event.position
    stamp(out.create_time, event.create_time)
    match event.body:
        case TextDelta(at, text):
            out.text_delta.offset = at
            out.text_delta.text = text
        case StateChanged(state, failure):
            out.state_changed.state = to_state(state)
            out.state_changed.attempt = event.attempt
            if failure is not None:
                out.state_changed.failure.CopyFrom(to_failure(failure) or pb2.ExecutionFailure())
        case ToolCall(call_id, name, arguments):
            out.tool_call.tool_call_id = call_id
            out.tool_call.name = name
            fill(out.tool_call.arguments, arguments)
        case ToolResult(call_id, is_error, text):
            out.tool_result.tool_call_id = call_id
            out.tool_result.is_error = is_error
            out.tool_result.text = text
        case UsageChanged(input_tokens, output_tokens):
            out.usage.input_tokens = input_tokens
            out.usage.output_tokens = output_tokens
