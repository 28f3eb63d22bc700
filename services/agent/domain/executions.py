"""What a user can do with executions. They are nobody else's: for others they do not exist."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.domain.agents import Agents
from services.agent.domain.inputs import read_files
from services.agent.domain.rounds import Providers
from services.agent.domain.states import States
from services.agent.errors import (
    AgentInactive,
    AgentNotFound,
    ConversationBusy,
    ExecutionLimitReached,
    ExecutionNotFound,
    ModelUnavailable,
    Replaced,
    ToolsInvalid,
)
from services.agent.input_files import InputFiles
from services.agent.models.agents import Agent
from services.agent.models.executions import Execution, ExecutionDraft, InputFile, Overlap, State
from services.agent.repository.agents import AgentRows
from services.agent.repository.executions import FILTER, ExecutionRows, of_conversation, of_user
from services.agent.repository.file_readers import FileReaderRows
from services.agent.tools import Tools
from services.agent.tools.names import tool_names, unknown_servers
from services.kit.database import Database, Scope
from services.kit.errors import QuotaViolation, RequestIdReused
from services.kit.ids import uuid7
from services.kit.pages import Page, PageRequest


class Executions:
    """The executions of all users."""

    def __init__(
        self,
        db: Database,
        agents: Agents,
        states: States,
        providers: Providers,
        tools: Tools,
        files: InputFiles,
        *,
        clock: Callable[[], datetime],
        max_open_per_user: int,
        unwatched_for: timedelta,
    ) -> None:
        self._db = db
        self._agents = agents
        self._states = states
        self._providers = providers
        self._tools = tools
        self._files = files
        self._clock = clock
        self._max_open = max_open_per_user
        self._unwatched_for = unwatched_for

    async def create_execution(self, user_id: UUID, draft: ExecutionDraft, request_id: UUID | None) -> Execution:
        """Store an execution that runs as soon as it can.

        The same draft under the same `request_id` gives the execution that the first one created, as it is now.

        Raises AgentNotFound, AgentInactive, ModelUnavailable, ToolsInvalid, InputFileRefused, ConversationBusy,
        ExecutionLimitReached, RequestIdReused, DependencyUnavailable.
        """
        digest = _digest(draft) if request_id else None
        if request_id:
            async with self._db.read() as tx:
                if before := await self._created(ExecutionRows(tx), user_id, request_id, digest):
                    return before
        agent = await self._agents.get_agent(user_id, draft.agent_id)
        files = await self._check(agent, draft)
        async with self._scope(user_id, draft) as tx:
            rows = ExecutionRows(tx)
            execution = _begun(user_id, agent, draft, self._clock())  # Within its turn: ids are a conversation's order.
            if draft.conversation_id and (before := await self._created(rows, user_id, request_id, digest)):
                return before  # Or it would be in its own way.
            replaced = await self._make_way(tx, user_id, draft)
            if not await rows.insert_if_room(
                execution,
                request_id=request_id,
                digest=digest,
                unwatched_for=self._unwatched_for,
                limit=self._max_open,
            ):
                if before := await self._created(rows, user_id, request_id, digest):
                    return before
                if await AgentRows(tx).get_for_update(user_id, agent.id) is None:
                    raise AgentNotFound
                raise ExecutionLimitReached(
                    quota=[QuotaViolation(f"user:{user_id}", f"{self._max_open} executions that have not ended")]
                )
            if files:
                await rows.insert_files(execution.id, files)
        self._states.tell([*replaced, execution])
        return execution

    def _scope(self, user_id: UUID, draft: ExecutionDraft) -> Scope:
        """What a creation needs: turns within its conversation, all or nothing, or just its one statement.

        The limit is counted without a lock: those created at the very same moment may go beyond it.
        """
        if draft.conversation_id:
            return self._db.transaction(lock=f"conversation:{user_id}:{draft.conversation_id}")
        return self._db.transaction() if draft.file_ids else self._db.read()

    async def get_execution(self, user_id: UUID, execution_id: UUID) -> Execution:
        """The user's execution of this id, with its output so far. Raises ExecutionNotFound."""
        async with self._db.read() as tx:
            rows = ExecutionRows(tx)
            execution = _found(await rows.get(user_id, execution_id))
            return await _with_output(rows, execution)

    async def list_executions(self, user_id: UUID, page: PageRequest, *, written_filter: str) -> Page[Execution]:
        """A page of the user's executions that a filter lets through, newest first. Raises FilterInvalid."""
        conditions = FILTER.read(written_filter)
        async with self._db.read() as tx:
            return await ExecutionRows(tx).list_newest_first(user_id, page, conditions)

    async def cancel_execution(self, user_id: UUID, execution_id: UUID) -> Execution:
        """End an execution early, or leave it as it is if it has ended; as it is then. Raises ExecutionNotFound."""
        async with self._db.transaction() as tx:
            rows = ExecutionRows(tx)
            changed = await self._states.cancel(tx, of_user(user_id, execution_id))
            execution = await _with_output(rows, _found(await rows.get(user_id, execution_id)))
        self._states.tell(changed)
        return execution

    async def check_file_reader(self, user_id: UUID, file_id: UUID) -> bool:
        """Whether the user has an execution that this file is an input of."""
        async with self._db.read() as tx:
            return await FileReaderRows(tx).has_as_input(user_id, file_id)

    async def _created(
        self, rows: ExecutionRows, user_id: UUID, request_id: UUID | None, digest: bytes | None
    ) -> Execution | None:
        """The execution that a request of this id has created before. Raises RequestIdReused."""
        found = await rows.find_created(user_id, request_id) if request_id else None
        if found is None:
            return None
        first_digest, execution = found
        if first_digest != digest:
            raise RequestIdReused
        return await _with_output(rows, execution)

    async def _check(self, agent: Agent, draft: ExecutionDraft) -> Sequence[InputFile]:
        """The files of an execution that can run. Raises what is in its way."""
        if not agent.is_active:
            raise AgentInactive
        provider = self._providers.provider_for(agent.model_name)
        if provider is None:
            raise ModelUnavailable
        try:
            names = tool_names(agent.config)
        except ValueError as error:
            raise ToolsInvalid(str(error)) from error
        if unknown := unknown_servers(names, self._tools.servers):
            raise ToolsInvalid(f"This installation has no server of tools named {', '.join(unknown)}.")
        return await read_files(self._files, draft.file_ids, takes_images=provider.takes_images)

    async def _make_way(self, tx: AsyncConnection, user_id: UUID, draft: ExecutionDraft) -> Sequence[Execution]:
        """Do what the draft says about executions of its conversation that have not ended. Raises ConversationBusy."""
        if draft.conversation_id is None or draft.overlap == Overlap.QUEUE:
            return []
        same = of_conversation(user_id, draft.conversation_id)
        if draft.overlap == Overlap.CANCEL_PREVIOUS:
            return await self._states.cancel(tx, same, because=Replaced())
        if await ExecutionRows(tx).lock_open(same):
            raise ConversationBusy
        return []


def _begun(user_id: UUID, agent: Agent, draft: ExecutionDraft, now: datetime) -> Execution:
    return Execution(
        id=uuid7(),
        user_id=user_id,
        agent_id=agent.id,
        agent_revision=agent.revision,
        conversation_id=draft.conversation_id,
        input=draft.input,
        file_ids=list(draft.file_ids),
        max_tokens=draft.max_tokens,
        timeout_seconds=None if draft.timeout is None else draft.timeout.total_seconds(),
        cancel_unwatched=draft.cancel_unwatched,
        state=State.QUEUED,
        output="",
        failure_reason=None,
        failure_message=None,
        input_tokens=0,
        output_tokens=0,
        last_sequence=1,
        attempt=0,
        create_time=now,
        update_time=now,
    )


async def _with_output(rows: ExecutionRows, execution: Execution) -> Execution:
    if execution.has_ended or not execution.attempt:
        return execution
    return execution._replace(output=await rows.output_so_far(execution.id, execution.attempt))


def _found(execution: Execution | None) -> Execution:
    if execution is None:
        raise ExecutionNotFound
    return execution


def _digest(draft: ExecutionDraft) -> bytes:
    return hashlib.sha256(json.dumps(draft.canonical(), sort_keys=True).encode()).digest()
