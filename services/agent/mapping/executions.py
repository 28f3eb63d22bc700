"""Executions and their events, between messages and what the domain works with."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from parley.agent.v1 import error_reason_pb2
from parley.agent.v1 import execution_service_pb2 as pb2
from services.agent.mapping.values import to_uuid
from services.agent.models.events import Event, StateChanged, TextDelta, ToolCall, ToolResult, UsageChanged
from services.agent.models.executions import Execution, ExecutionDraft, Failure, Overlap
from services.kit.structs import fill
from services.kit.timestamps import stamp, to_optional_timestamp, to_timestamp

_OVERLAPS = {
    pb2.OVERLAP_UNSPECIFIED: Overlap.REJECT,
    pb2.OVERLAP_REJECT: Overlap.REJECT,
    pb2.OVERLAP_QUEUE: Overlap.QUEUE,
    pb2.OVERLAP_CANCEL_PREVIOUS: Overlap.CANCEL_PREVIOUS,
}


def to_draft(request: pb2.CreateExecutionRequest | pb2.RunExecutionRequest) -> ExecutionDraft:
    """What the request wants the new execution to be."""
    agent_id = to_uuid(request.agent_id)
    assert agent_id is not None
    return ExecutionDraft(
        agent_id=agent_id,
        input=request.input,
        file_ids=tuple(filter(None, map(to_uuid, request.file_ids))),
        conversation_id=to_uuid(request.conversation_id),
        max_tokens=request.budget.max_tokens or None,
        timeout=request.budget.timeout.ToTimedelta() if request.budget.HasField("timeout") else None,
        overlap=_OVERLAPS[request.overlap],
        cancel_unwatched=request.on_disconnect == pb2.ON_DISCONNECT_CANCEL,
    )


def to_execution(execution: Execution) -> pb2.Execution:
    """An execution as its owner sees it."""
    return pb2.Execution(
        id=str(execution.id),
        user_id=str(execution.user_id),
        agent_id=str(execution.agent_id),
        agent_revision=execution.agent_revision,
        conversation_id=str(execution.conversation_id) if execution.conversation_id else "",
        input=execution.input,
        file_ids=map(str, execution.file_ids),
        budget=_budget(execution),
        on_disconnect=pb2.ON_DISCONNECT_CANCEL if execution.cancel_unwatched else pb2.ON_DISCONNECT_CONTINUE,
        state=_state(execution.state),
        output=execution.output,
        failure=_failure(execution.failure),
        usage=pb2.Usage(input_tokens=execution.input_tokens, output_tokens=execution.output_tokens),
        last_sequence=execution.last_sequence,
        attempt=execution.attempt,
        create_time=to_timestamp(execution.create_time),
        start_time=to_optional_timestamp(execution.start_time),
        end_time=to_optional_timestamp(execution.end_time),
    )


def to_events_field(event: Event) -> bytes:
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
            out.state_changed.state = _state(state)
            out.state_changed.attempt = event.attempt
            if failure is not None:
                out.state_changed.failure.CopyFrom(_failure(failure) or pb2.ExecutionFailure())
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


def _state(state: str) -> pb2.ExecutionState.ValueType:
    return pb2.ExecutionState.Value(f"EXECUTION_STATE_{state}")


def _failure(failure: Failure | None) -> pb2.ExecutionFailure | None:
    if failure is None:
        return None
    reason = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{failure.reason}")
    return pb2.ExecutionFailure(reason=reason, message=failure.message)


def _budget(execution: Execution) -> pb2.Budget | None:
    if execution.max_tokens is None and execution.timeout_seconds is None:
        return None
    budget = pb2.Budget(max_tokens=execution.max_tokens or 0)
    if execution.timeout_seconds is not None:
        timeout = Duration()
        timeout.FromTimedelta(timedelta(seconds=execution.timeout_seconds))
        budget.timeout.CopyFrom(timeout)
    return budget
