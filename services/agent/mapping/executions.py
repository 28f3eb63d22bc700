"""Executions, between messages and what the domain works with."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from parley.agent.v1 import error_reason_pb2
from parley.agent.v1 import execution_service_pb2 as pb2
from services.agent.mapping.values import to_uuid
from services.agent.models.executions import Execution, ExecutionDraft, Failure, Overlap
from services.kit.timestamps import to_optional_timestamp, to_timestamp

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
        state=to_state(execution.state),
        output=execution.output,
        failure=to_failure(execution.failure),
        usage=pb2.Usage(input_tokens=execution.input_tokens, output_tokens=execution.output_tokens),
        last_sequence=execution.last_sequence,
        attempt=execution.attempt,
        create_time=to_timestamp(execution.create_time),
        update_time=to_timestamp(execution.update_time),
        start_time=to_optional_timestamp(execution.start_time),
        end_time=to_optional_timestamp(execution.end_time),
    )


def to_state(state: str) -> pb2.ExecutionState.ValueType:
    """A state."""
    return pb2.ExecutionState.Value(f"EXECUTION_STATE_{state}")


def to_failure(failure: Failure | None) -> pb2.ExecutionFailure | None:
    """Why an execution has not succeeded, if there is something to say."""
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
