"""Executions as their owners see them: made, read, listed, changed from one state to another."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Interval, bindparam, func, literal, literal_column, select, update
from sqlalchemy.dialects.postgresql import Insert, aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.models.agents import AgentTable
from services.agent.models.events import StateChanged, TextDelta
from services.agent.models.executions import (
    OPEN,
    EventTable,
    Exchange,
    Execution,
    ExecutionTable,
    InputFile,
    InputFileTable,
    State,
)
from services.kit.filters import Filter, choice, moment, uuid
from services.kit.listing import NewestFirst
from services.kit.pages import Page, PageRequest
from services.kit.prepared import Prepared

FILTER = Filter(
    {
        "agent_id": uuid(ExecutionTable.agent_id),
        "conversation_id": uuid(ExecutionTable.conversation_id),
        "state": choice(ExecutionTable.state, State),
        "create_time": moment(ExecutionTable.create_time),
    }
)
"""What the list of executions can be filtered by."""

Which = tuple[ColumnElement[bool], ...]
"""Which executions: all that meet these conditions."""


COLUMNS = tuple(getattr(ExecutionTable, name) for name in Execution._fields)
_OWN = (ExecutionTable.id == bindparam("id"), ExecutionTable.user_id == bindparam("user_id"))
_GET = select(*COLUMNS).where(*_OWN)
_LISTED = tuple(column for column in COLUMNS if column is not ExecutionTable.output)


def _listed(row: Sequence[Any]) -> Execution:
    return Execution(**dict(zip([column.key for column in _LISTED], row, strict=True)), output="")


_LIST = NewestFirst(_listed, _LISTED, ExecutionTable.user_id == bindparam("user_id"))
_FIND_CREATED = select(ExecutionTable.draft_digest, *COLUMNS).where(
    ExecutionTable.user_id == bindparam("user_id"), ExecutionTable.request_id == bindparam("request_id")
)


def in_state(*states: State) -> ColumnElement[bool]:
    """That an execution is in one of these states, said in such a way that the indexes of some states serve."""
    return ExecutionTable.state.in_([literal_column(f"'{state}'") for state in states])


IS_OPEN = in_state(*OPEN)
_COUNT_OPEN = select(func.count()).where(ExecutionTable.user_id == bindparam("user_id"), IS_OPEN)
_OUTPUT = select(
    func.coalesce(func.string_agg(EventTable.text, aggregate_order_by(literal(""), EventTable.sequence)), "")
).where(
    EventTable.execution_id == bindparam("id"),
    EventTable.attempt == bindparam("attempt"),
    EventTable.kind == TextDelta.kind,
)


def told(changed: CTE) -> Insert:
    """Add to the events in which state executions have come by a statement, which has counted for each."""
    data = func.jsonb_build_object(
        *(literal_column("'state'"), changed.c.state),
        *(literal_column("'reason'"), changed.c.failure_reason),
        *(literal_column("'message'"), changed.c.failure_message),
    )
    return insert(EventTable).from_select(
        ["execution_id", "sequence", "attempt", "kind", "data", "create_time"],
        select(
            changed.c.id,
            changed.c.last_sequence,
            changed.c.attempt,
            literal_column(f"'{StateChanged.kind}'"),
            data,
            changed.c.update_time,
        ),
    )


_GIVEN = [column for column in ExecutionTable.__table__.columns if column.key != "watch_expire_time"]
_present = (
    select(AgentTable.id)
    .where(
        AgentTable.id == bindparam("agent_id"),
        AgentTable.user_id == bindparam("user_id"),
        AgentTable.delete_time.is_(None),
    )
    .with_for_update(read=True)
    .cte("present")
)
# One statement with what has to be true for it. Nothing is added that another creation had the same `request_id` for.
_INSERT_IF_ROOM = Prepared(
    told(
        insert(ExecutionTable)
        .from_select(
            [*(column.key for column in _GIVEN), "watch_expire_time"],
            select(
                *(bindparam(column.key, type_=column.type) for column in _GIVEN),
                func.now() + bindparam("unwatched_for", type_=Interval),
            )
            .select_from(_present)
            .where(_COUNT_OPEN.scalar_subquery() < bindparam("limit")),
        )
        .on_conflict_do_nothing(index_elements=[ExecutionTable.user_id, ExecutionTable.request_id])
        .returning(*COLUMNS)
        .cte("created")
    ).returning(EventTable.execution_id)
)


def of_user(user_id: UUID, execution_id: UUID) -> Which:
    """One execution, if it is the user's."""
    return (ExecutionTable.id == execution_id, ExecutionTable.user_id == user_id)


def of_conversation(user_id: UUID, conversation_id: UUID) -> Which:
    """The executions of a conversation of the user's."""
    return (ExecutionTable.user_id == user_id, ExecutionTable.conversation_id == conversation_id)


def of_agent(agent_id: UUID) -> Which:
    """The executions of an agent."""
    return (ExecutionTable.agent_id == agent_id,)


def among(execution_ids: Sequence[UUID]) -> Which:
    """These executions."""
    return (ExecutionTable.id.in_(execution_ids),)


class ExecutionRows:
    """Executions, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def insert_if_room(
        self,
        execution: Execution,
        *,
        request_id: UUID | None,
        digest: bytes | None,
        unwatched_for: timedelta,
        limit: int,
    ) -> bool:
        """Add an execution that waits, with its first event; whether that was done.

        It is not where the agent is not there any more, the user has as many open ones as the limit, or has used the
        request's id before.
        """
        values: dict[str, Any] = {
            **execution._asdict(),
            "request_id": request_id,
            "draft_digest": digest,
            "losses": 0,
            "appended": 0,
            "has_used_tools": False,
            "has_events": True,
            "lease_expire_time": None,
            "unwatched_for": unwatched_for,
            "limit": limit,
        }
        return await _INSERT_IF_ROOM.first(self._tx, values) is not None

    async def insert_files(self, execution_id: UUID, files: Sequence[InputFile]) -> None:
        """Add the files of an execution."""
        await self._tx.execute(
            insert(InputFileTable),
            [
                {
                    "execution_id": execution_id,
                    "position": position,
                    "file_id": file.file_id,
                    "filename": file.filename,
                    "content_type": file.content_type,
                    "content": file.content,
                }
                for position, file in enumerate(files)
            ],
        )

    async def find_created(self, user_id: UUID, request_id: UUID) -> tuple[bytes, Execution] | None:
        """What the user's request of this id asked for, as a digest, and the execution that it created."""
        row = (await self._tx.execute(_FIND_CREATED, {"user_id": user_id, "request_id": request_id})).first()
        return None if row is None else (row[0], Execution._make(row[1:]))

    async def get(self, user_id: UUID, execution_id: UUID) -> Execution | None:
        """The user's execution of this id. Its output is there once it has ended."""
        row = (await self._tx.execute(_GET, {"id": execution_id, "user_id": user_id})).first()
        return None if row is None else Execution._make(row)

    async def output_so_far(self, execution_id: UUID, attempt: int) -> str:
        """What an attempt has answered, as its events tell."""
        found: str = (await self._tx.execute(_OUTPUT, {"id": execution_id, "attempt": attempt})).scalar_one()
        return found

    async def list_newest_first(
        self, user_id: UUID, page: PageRequest, conditions: Sequence[ColumnElement[bool]]
    ) -> Page[Execution]:
        """A page of the user's executions that meet conditions, and how many there are in all, at one moment.

        Their outputs, which may be large, are left out.
        """
        return await _LIST.page(self._tx, page, *conditions, user_id=user_id)

    async def lock_open(self, which: Which) -> Sequence[Execution]:
        """Those of the executions that have not ended, locked in the order in which all lock them."""
        statement = select(*COLUMNS).where(IS_OPEN, *which).order_by(ExecutionTable.id)
        return [Execution._make(row) for row in await self._tx.execute(statement.with_for_update())]

    async def change(self, now: datetime, *conditions: ColumnElement[bool], **values: Any) -> Sequence[Execution]:
        """Change executions that meet conditions and tell so in an event of each; as they are then."""
        values |= {"last_sequence": ExecutionTable.last_sequence + 1, "update_time": now}
        changed = update(ExecutionTable).where(*conditions).values(values).returning(*COLUMNS).cte("changed")
        statement = select(*changed.c).add_cte(told(changed).cte("told"))
        return [Execution._make(row) for row in await self._tx.execute(statement)]

    async def earlier(
        self, execution: Execution, limit: int, *, characters: int, file_bytes: int
    ) -> Sequence[Exchange]:
        """The last executions of the same conversation before this one that have ended with an answer, newest first.

        As many as have no more characters in all, and no more bytes in their files.
        """
        in_files = select(func.coalesce(func.sum(func.octet_length(InputFileTable.content)), 0)).where(
            InputFileTable.execution_id == ExecutionTable.id
        )
        said = func.char_length(ExecutionTable.input) + func.char_length(ExecutionTable.output)
        last = (
            select(
                *(ExecutionTable.id, ExecutionTable.input, ExecutionTable.output),
                *(said.label("characters"), in_files.scalar_subquery().label("file_bytes")),
            )
            .where(
                ExecutionTable.user_id == execution.user_id,
                ExecutionTable.conversation_id == execution.conversation_id,
                ExecutionTable.id < execution.id,
                ExecutionTable.state.not_in(OPEN),
                ExecutionTable.output != "",
            )
            .order_by(ExecutionTable.id.desc())
            .limit(limit)
            .subquery()
        )
        newest_first = last.c.id.desc()
        summed = select(
            *(last.c.id, last.c.input, last.c.output),
            func.sum(last.c.characters).over(order_by=newest_first).label("characters"),
            func.sum(last.c.file_bytes).over(order_by=newest_first).label("file_bytes"),
        ).subquery()
        statement = (
            select(summed.c.id, summed.c.input, summed.c.output)
            .where(summed.c.characters <= characters, summed.c.file_bytes <= file_bytes)
            .order_by(summed.c.id.desc())
        )
        return [Exchange._make(row) for row in await self._tx.execute(statement)]

    async def input_files(self, execution_ids: Sequence[UUID]) -> Sequence[tuple[UUID, InputFile]]:
        """The files of executions, each with its execution, in the order in which they were named."""
        table = InputFileTable
        statement = (
            select(table.execution_id, table.file_id, table.filename, table.content_type, table.content)
            .where(table.execution_id.in_(execution_ids))
            .order_by(table.execution_id, table.position)
        )
        return [(row[0], InputFile(*row[1:])) for row in await self._tx.execute(statement)]

    async def renew_watches(self, execution_ids: Sequence[UUID], seconds: timedelta) -> None:
        """Somebody watches these executions: they are not unwatched for so long."""
        locked = select(ExecutionTable.id).where(ExecutionTable.id.in_(execution_ids), IS_OPEN)
        # In the order in which all lock them, or this would wait in a circle with those who store what they do.
        watched = locked.order_by(ExecutionTable.id).with_for_update().cte("watched")
        statement = update(ExecutionTable).where(ExecutionTable.id == watched.c.id)
        await self._tx.execute(statement.values(watch_expire_time=func.now() + seconds))
