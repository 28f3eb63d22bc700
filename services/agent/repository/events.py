"""The events of executions: read in their order, and appended in batches, of many executions at a time."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.models.events import Body, Event, StateChanged, TextDelta, ToolCall, ToolResult, UsageChanged
from services.agent.models.executions import EventTable, ExecutionTable, Failure, State

# One statement for all executions of a process that have something to tell, so that it is one round trip and one commit
# for hundreds of them. An execution takes part only if this attempt still has it and nothing of the batch was stored
# before: then all of its events are stored, under the next numbers, and otherwise none. Two of these never wait for
# each other in a circle: they lock in one order. (Values come as JSON: psycopg would write out each by itself.)
_APPEND = text(
    """
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:runs AS json)) AS g(
            id uuid, attempt int, appended bigint, count bigint, tools boolean,
            input_tokens bigint, output_tokens bigint
        )
    ), held AS (
        SELECT e.id, e.last_sequence AS base
        FROM agent.executions e
        JOIN given g ON g.id = e.id AND g.attempt = e.attempt AND g.appended = e.appended
        WHERE e.state IN ('RUNNING', 'CANCELLING')
        ORDER BY e.id
        FOR UPDATE OF e
    ), moved AS (
        UPDATE agent.executions e
        SET last_sequence = e.last_sequence + g.count,
            appended = e.appended + g.count,
            has_used_tools = e.has_used_tools OR g.tools,
            input_tokens = coalesce(g.input_tokens, e.input_tokens),
            output_tokens = coalesce(g.output_tokens, e.output_tokens)
        FROM given g JOIN held h ON h.id = g.id
        WHERE e.id = g.id
        RETURNING e.id, h.base
    ), told AS (
        INSERT INTO agent.execution_events (execution_id, sequence, attempt, kind, at, text, data, create_time)
        SELECT m.id, m.base + v.place, v.attempt, v.kind, v.at, v.text, v.data, v.create_time
        FROM json_to_recordset(CAST(:events AS json)) AS v(
            id uuid, place bigint, attempt int, kind text, at bigint, text text, data jsonb, create_time timestamptz
        )
        JOIN moved m ON m.id = v.id
    )
    SELECT id, base FROM moved
    """
)
_COLUMNS = (
    EventTable.execution_id,
    EventTable.sequence,
    EventTable.attempt,
    EventTable.create_time,
    EventTable.kind,
    EventTable.at,
    EventTable.text,
    EventTable.data,
)
_READ = (
    select(*_COLUMNS)
    .where(EventTable.execution_id == bindparam("id"), EventTable.sequence > bindparam("after"))
    .order_by(EventTable.sequence)
    .limit(bindparam("limit"))
)
_HEADS = select(ExecutionTable.id, ExecutionTable.last_sequence).where(
    ExecutionTable.id.in_(bindparam("ids", expanding=True))
)
_APPENDED = select(ExecutionTable.id, ExecutionTable.attempt, ExecutionTable.appended).where(
    ExecutionTable.id.in_(bindparam("ids", expanding=True))
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one attempt at an execution has to tell: events, behind those that it has had stored before."""

    execution_id: UUID
    attempt: int
    appended: int
    events: Sequence[tuple[datetime, Body]]


class EventRows:
    """The events, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def append(self, batches: Sequence[Batch]) -> Mapping[UUID, int]:
        """Store the events of batches, at most one of each execution. For each that was: the position before its first.

        What is missing there was not stored: the attempt has lost the execution, or the batch was stored before.
        """
        given = {"runs": json.dumps([_run(batch) for batch in batches]), "events": json.dumps(_rows(batches))}
        return {row[0]: row[1] for row in await self._tx.execute(_APPEND, given)}

    async def appended(self, execution_ids: Sequence[UUID]) -> Mapping[UUID, tuple[int, int]]:
        """The attempt that each of these executions is at, and how many events it has had stored."""
        rows = await self._tx.execute(_APPENDED, {"ids": list(execution_ids)})
        return {row[0]: (row[1], row[2]) for row in rows}

    async def read(self, execution_id: UUID, after: int, limit: int) -> Sequence[Event]:
        """The first events after a position, in order."""
        rows = await self._tx.execute(_READ, {"id": execution_id, "after": after, "limit": limit})
        return [Event(*row[:4], _body(*row[4:])) for row in rows]

    async def heads(self, execution_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """The last position of each of these executions."""
        return {row[0]: row[1] for row in await self._tx.execute(_HEADS, {"ids": list(execution_ids)})}


def _run(batch: Batch) -> dict[str, Any]:
    usage = next((body for _, body in reversed(batch.events) if isinstance(body, UsageChanged)), None)
    return {
        "id": str(batch.execution_id),
        "attempt": batch.attempt,
        "appended": batch.appended,
        "count": len(batch.events),
        "tools": any(isinstance(body, ToolCall) for _, body in batch.events),
        "input_tokens": None if usage is None else usage.input_tokens,
        "output_tokens": None if usage is None else usage.output_tokens,
    }


def _rows(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(batch.execution_id),
            "place": place,
            "attempt": batch.attempt,
            "kind": body.kind,
            "create_time": moment.isoformat(),
            **_fields(body),
        }
        for batch in batches
        for place, (moment, body) in enumerate(batch.events, 1)
    ]


def _fields(body: Body) -> dict[str, Any]:
    match body:
        case TextDelta():
            return {"at": body.at, "text": body.text}
        case ToolCall():
            return {"data": {"id": body.id, "name": body.name, "arguments": body.arguments}}
        case ToolResult():
            return {"data": {"id": body.id, "is_error": body.is_error}, "text": body.text}
        case UsageChanged():
            return {"data": {"input_tokens": body.input_tokens, "output_tokens": body.output_tokens}}
        case StateChanged():
            raise TypeError("a state is changed where it is kept")


def _body(kind: str, at: Any, said: Any, data: Any) -> Body:
    match kind:
        case TextDelta.kind:
            return TextDelta(at, said)
        case ToolCall.kind:
            return ToolCall(data["id"], data["name"], data["arguments"])
        case ToolResult.kind:
            return ToolResult(data["id"], data["is_error"], said)
        case UsageChanged.kind:
            return UsageChanged(data["input_tokens"], data["output_tokens"])
        case _:
            state = State(data["state"])
            told = state.is_final and data["reason"] is not None
            return StateChanged(state, Failure(data["reason"], data["message"]) if told else None)
