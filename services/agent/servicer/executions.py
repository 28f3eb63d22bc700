"""`parley.agent.v1.ExecutionService`: protobuf in, one call of the domain, protobuf out."""

from collections.abc import AsyncIterator
from uuid import UUID

from parley.agent.v1 import execution_service_pb2 as pb2
from services.agent.domain.executions import Executions
from services.agent.domain.watching import Watching
from services.agent.mapping.events import to_responses
from services.agent.mapping.executions import to_draft, to_execution
from services.agent.mapping.values import to_uuid
from services.kit.calls import Call
from services.kit.pages import MAX_LIST_BYTES, fitting, read_page, token_behind


class ExecutionServicer:
    """The executions of the caller."""

    def __init__(self, executions: Executions, watching: Watching) -> None:
        self._executions = executions
        self._watching = watching

    async def CreateExecution(self, request: pb2.CreateExecutionRequest, call: Call) -> pb2.CreateExecutionResponse:
        execution = await self._executions.create_execution(
            call.caller.user_id, to_draft(request), to_uuid(request.request_id)
        )
        return pb2.CreateExecutionResponse(execution=to_execution(execution))

    async def RunExecution(self, request: pb2.RunExecutionRequest, call: Call) -> AsyncIterator[bytes]:
        user_id = call.caller.user_id
        execution = await self._executions.create_execution(user_id, to_draft(request), to_uuid(request.request_id))
        yield pb2.RunExecutionResponse(execution=to_execution(execution)).SerializeToString()
        async for notice in self._watching.watch_execution(user_id, execution.id, 0):
            for response in to_responses(notice):
                yield response

    async def WatchExecution(self, request: pb2.WatchExecutionRequest, call: Call) -> AsyncIterator[bytes]:
        async for notice in self._watching.watch_execution(
            call.caller.user_id, UUID(request.id), request.after_sequence
        ):
            for response in to_responses(notice):
                yield response

    async def GetExecution(self, request: pb2.GetExecutionRequest, call: Call) -> pb2.GetExecutionResponse:
        execution = await self._executions.get_execution(call.caller.user_id, UUID(request.id))
        return pb2.GetExecutionResponse(execution=to_execution(execution))

    async def ListExecutions(self, request: pb2.ListExecutionsRequest, call: Call) -> pb2.ListExecutionsResponse:
        user_id = call.caller.user_id
        list_name = f"executions of {user_id} {request.filter!r}"
        page = await self._executions.list_executions(
            user_id,
            read_page(list_name, request.page_size, request.page_token, request.skip),
            written_filter=request.filter,
        )
        listed = [to_execution(execution) for execution in page.items]
        executions = fitting(listed, MAX_LIST_BYTES)
        return pb2.ListExecutionsResponse(
            executions=executions,
            next_page_token=token_behind(list_name, page, len(executions), lambda execution: execution.id),
            total_size=page.total_size,
        )

    async def CancelExecution(self, request: pb2.CancelExecutionRequest, call: Call) -> pb2.CancelExecutionResponse:
        execution = await self._executions.cancel_execution(call.caller.user_id, UUID(request.id))
        return pb2.CancelExecutionResponse(execution=to_execution(execution))

    async def CheckFileReader(self, request: pb2.CheckFileReaderRequest, call: Call) -> pb2.CheckFileReaderResponse:
        may_read = await self._executions.check_file_reader(UUID(request.user_id), UUID(request.file_id))
        return pb2.CheckFileReaderResponse(may_read=may_read)
