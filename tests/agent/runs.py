"""What tests of executions say often: a run to its end, the text that a watcher has put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from parley.agent.v1 import execution_service_pb2 as pb2
from parley.agent.v1.execution_service_pb2_grpc import ExecutionServiceStub
from tests.support import DEADLINE, Metadata

FINAL = frozenset(
    {
        pb2.EXECUTION_STATE_SUCCEEDED,
        pb2.EXECUTION_STATE_FAILED,
        pb2.EXECUTION_STATE_CANCELLED,
        pb2.EXECUTION_STATE_BUDGET_EXCEEDED,
    }
)


class Transcript:
    """What a watcher knows of an execution: it drops nothing, and minds that nothing is missing or doubled."""

    def __init__(self) -> None:
        self.output = b""
        self.sequence = 0
        self.events: list[pb2.ExecutionEvent] = []
        self.caught_up = 0
        self.gaps: list[tuple[int, int]] = []

    def take(self, response: pb2.WatchExecutionResponse | pb2.RunExecutionResponse) -> None:
        """Take what a stream has given."""
        if response.HasField("gap"):
            assert response.gap.first_sequence == self.sequence + 1
            self.gaps.append((response.gap.first_sequence, response.gap.last_sequence))
            self.sequence = response.gap.last_sequence
        for event in response.events:
            assert event.sequence == self.sequence + 1, f"{event.sequence} after {self.sequence}"
            self.sequence = event.sequence
            self.events.append(event)
            if event.HasField("text_delta"):
                delta = event.text_delta
                assert delta.text
                assert delta.offset in (len(self.output), 0), "only another attempt begins anew"
                self.output = self.output[: delta.offset] + delta.text.encode()
        if response.HasField("caught_up"):
            assert response.caught_up.sequence == self.sequence
            self.caught_up += 1

    @property
    def states(self) -> list[str]:
        """The states that the execution has come into, in their order."""
        return [
            pb2.ExecutionState.Name(event.state_changed.state).removeprefix("EXECUTION_STATE_")
            for event in self.events
            if event.HasField("state_changed")
        ]

    @property
    def text(self) -> str:
        """The output as it is now."""
        return self.output.decode()

    def of_kind(self, kind: str) -> Sequence[Any]:
        """The events of a kind, such as `tool_call`."""
        return [getattr(event, kind) for event in self.events if event.HasField(kind)]  # type: ignore[arg-type]  # a field's name


@asynccontextmanager
async def watching(
    executions: ExecutionServiceStub, execution_id: str, metadata: Metadata, after: int = 0
) -> AsyncIterator[Any]:
    """A stream that follows an execution; it is over when the block is."""
    request = pb2.WatchExecutionRequest(id=execution_id, after_sequence=after)
    call = executions.WatchExecution(request, metadata=metadata, timeout=60)
    try:
        yield call
    finally:
        call.cancel()


async def watch(
    executions: ExecutionServiceStub, execution_id: str, metadata: Metadata, transcript: Transcript | None = None
) -> Transcript:
    """Follow an execution to its end, from where the transcript is."""
    transcript = transcript or Transcript()
    async with watching(executions, execution_id, metadata, transcript.sequence) as call:
        async for response in call:
            transcript.take(response)
    return transcript


async def run(
    executions: ExecutionServiceStub, metadata: Metadata, timeout: float = 60, **fields: Any
) -> tuple[pb2.Execution, Transcript]:
    """Run an execution to its end: as it was created, and what it did."""
    transcript = Transcript()
    created = pb2.Execution()
    call = executions.RunExecution(pb2.RunExecutionRequest(**fields), metadata=metadata, timeout=timeout)
    try:
        async for response in call:
            if response.HasField("execution"):
                created = response.execution
            transcript.take(response)
    finally:
        call.cancel()
    return created, transcript


async def get(executions: ExecutionServiceStub, execution_id: str, metadata: Metadata) -> pb2.Execution:
    """An execution as it is now."""
    request = pb2.GetExecutionRequest(id=execution_id)
    return (await executions.GetExecution(request, metadata=metadata, timeout=DEADLINE)).execution
