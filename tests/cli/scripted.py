"""A real server of ExecutionService that tells what a test has written down: what no agent does when it is asked to."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from parley.agent.v1 import execution_service_pb2 as pb2
from services.kit.errors import DomainError
from services.kit.ids import uuid7
from services.kit.status import code_of, to_rpc_status

SERVICE = "parley.agent.v1.ExecutionService"
Event = pb2.ExecutionEvent
Said: TypeAlias = "Event | pb2.Gap | DomainError"
"""What a stream gives; a failure ends it."""


@dataclass
class Script:
    """One execution. Each stream goes on where the one before has ended."""

    said: Sequence[Said]
    output: str
    state: pb2.ExecutionState.ValueType = pb2.EXECUTION_STATE_SUCCEEDED
    id: str = field(default_factory=lambda: str(uuid7()))
    asked_for: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    address: str = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Script"]:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, self._handlers())])
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def _handlers(self) -> dict[str, Any]:
        stream, one = grpc.unary_stream_rpc_method_handler, grpc.unary_unary_rpc_method_handler
        kinds: dict[str, tuple[Any, Any, Any]] = {
            "RunExecution": (stream, self._run, pb2.RunExecutionRequest),
            "WatchExecution": (stream, self._watch, pb2.WatchExecutionRequest),
            "GetExecution": (one, self._get, pb2.GetExecutionRequest),
        }
        return {
            name: kind(method, request_deserializer=request.FromString, response_serializer=_serialized)
            for name, (kind, method, request) in kinds.items()
        }

    async def _run(self, _request: Any, call: Any) -> None:
        await call.write(pb2.RunExecutionResponse(execution=pb2.Execution(id=self.id)))
        await self._tell(call, 0, pb2.RunExecutionResponse)

    async def _watch(self, request: Any, call: Any) -> None:
        self.asked_for.append(request.after_sequence)
        await self._tell(call, request.after_sequence, pb2.WatchExecutionResponse)

    async def _get(self, _request: Any, _call: Any) -> pb2.GetExecutionResponse:
        return pb2.GetExecutionResponse(execution=pb2.Execution(id=self.id, state=self.state, output=self.output))

    async def _tell(self, call: Any, after: int, kind: Any) -> None:
        self.tokens.append(dict(call.invocation_metadata())["authorization"])
        sequence = 0
        failures = len(self.tokens)
        for said in self.said:
            if isinstance(said, DomainError):
                failures -= 1
                if not failures:
                    await self._fail(call, said)
                continue
            if isinstance(said, pb2.Gap):
                if said.last_sequence > after:
                    await call.write(kind(gap=said))
                sequence = said.last_sequence
                continue
            sequence += 1
            if sequence > after:
                said.sequence = sequence
                await call.write(kind(events=[said]))

    async def _fail(self, call: Any, failure: DomainError) -> None:
        trailers = (("grpc-status-details-bin", to_rpc_status(failure).SerializeToString()),)
        await call.abort(code_of(failure), str(failure), trailers)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def delta(offset: int, text: str) -> Event:
    return Event(text_delta=Event.TextDelta(offset=offset, text=text))


def begins(attempt: int) -> Event:
    return Event(state_changed=Event.StateChanged(state=pb2.EXECUTION_STATE_RUNNING, attempt=attempt))
