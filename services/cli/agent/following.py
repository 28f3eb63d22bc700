"""An execution, followed to its end over as many streams as that takes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from services.cli.agent.screen import Screen
from services.cli.client.caller import Caller
from services.cli.client.calls import bearer, failure_of, failures
from services.cli.client.ending import Away, Failed
from services.cli.client.patience import Patience

R = TypeVar("R")

STREAM_SECONDS = 3600.0
ENDED = frozenset(
    {
        pb2.EXECUTION_STATE_SUCCEEDED,
        pb2.EXECUTION_STATE_FAILED,
        pb2.EXECUTION_STATE_CANCELLED,
        pb2.EXECUTION_STATE_BUDGET_EXCEEDED,
    }
)


class Following:
    """One execution: that which a request creates, or one that there is, after a sequence."""

    def __init__(
        self, caller: Caller, screen: Screen, *, request: pb2.RunExecutionRequest | None, id_: str = "", after: int = 0
    ) -> None:
        self._caller = caller
        self._executions = ExecutionServiceStub(caller.channel)
        self._screen = screen
        self._request = request
        self._id = id_
        self._cursor = after
        self._responses = 0
        self._is_known = asyncio.Event()
        self._cancelling: asyncio.Task[None] | None = None

    async def to_the_end(self) -> pb2.Execution:
        """Show the execution as it goes, and return it as it has ended. Raises Failed."""
        if self._request is None:
            self._know(await self._get())
        try:
            while True:
                await self._insisting(self._stream)
                if (execution := await self._insisting(self._get)).state in ENDED:
                    return execution
        except Away as away:
            raise Failed(*away.lines, *self._how_to_go_on()) from away
        finally:
            if self._cancelling is not None:
                self._cancelling.cancel()

    def cancel(self) -> None:
        """Have the execution cancelled, as soon as it is known; it still has to be followed to its end."""
        self._cancelling = asyncio.create_task(self._cancel())

    async def _cancel(self) -> None:
        await self._is_known.wait()
        request = pb2.CancelExecutionRequest(id=self._id)
        try:
            await self._insisting(lambda _: self._caller.call(self._executions.CancelExecution, request))
        except Failed as failure:
            self._screen.note(f"it cannot be cancelled: {failure}")

    async def _insisting(self, work: Callable[[Patience], Awaitable[R]]) -> R:
        """Do something again until the service is there for it. Raises Failed; Away after GIVE_UP_SECONDS in vain."""
        patience = Patience(self._screen.note)
        while True:
            try:
                return await work(patience)
            except Away as away:
                # Within a minute an execution goes on whose process was lost.
                await patience.wait_after(away)

    async def _get(self, _: Any = None) -> pb2.Execution:
        answer = await self._caller.call(self._executions.GetExecution, pb2.GetExecutionRequest(id=self._id))
        return answer.execution

    async def _stream(self, patience: Patience) -> None:
        """Show what a stream gives, with another token when one has expired. Raises Failed; Away if it breaks."""
        token, is_new = await self._caller.credentials.token(), False
        while True:
            before = self._responses
            try:
                return await self._show(token, patience)
            except grpc.aio.AioRpcError as error:
                failure = failure_of(error, self._caller.target)
                if isinstance(failure, Away) or (is_new and self._responses == before):
                    raise failure from error
                with failures(self._caller.target):
                    token, is_new = await self._caller.token_after(error, token), True

    async def _show(self, token: str, patience: Patience) -> None:
        metadata, seconds = bearer(token), STREAM_SECONDS
        call: Any
        if self._request is not None and not self._id:
            call = self._executions.RunExecution(self._request, metadata=metadata, timeout=seconds)
        else:
            request = pb2.WatchExecutionRequest(id=self._id, after_sequence=self._cursor)
            call = self._executions.WatchExecution(request, metadata=metadata, timeout=seconds)
        try:
            async for response in call:
                patience.renew()
                self._take(response)
        finally:
            call.cancel()

    def _take(self, response: pb2.RunExecutionResponse | pb2.WatchExecutionResponse) -> None:
        self._responses += 1
        if isinstance(response, pb2.RunExecutionResponse) and response.HasField("execution"):
            self._know(response.execution)
        if response.HasField("gap"):
            self._screen.gap(response.gap)
            self._cursor = max(self._cursor, response.gap.last_sequence)
        for event in response.events:
            if event.sequence > self._cursor:
                self._cursor = event.sequence
                self._screen.event(event)

    def _know(self, execution: pb2.Execution) -> None:
        self._id = execution.id
        self._screen.began(execution)
        self._is_known.set()

    def _how_to_go_on(self) -> tuple[str, ...]:
        return (f"`parley agent run --resume {self._id}` goes on with it",) if self._id else ()
