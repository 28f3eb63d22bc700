"""Who may read a file because of the executions that it is an input of."""

from uuid import UUID

from sqlalchemy import bindparam, exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from services.agent.models.executions import ExecutionTable, InputFileTable

_IS_INPUT_OF = select(
    exists().where(
        InputFileTable.file_id == bindparam("file_id"),
        InputFileTable.execution_id == ExecutionTable.id,
        ExecutionTable.user_id == bindparam("user_id"),
    )
)


class FileReaderRows:
    """The readers of files, over the connection of one transaction or of one read."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def has_as_input(self, user_id: UUID, file_id: UUID) -> bool:
        """Whether an execution of the user's has this file among its inputs."""
        return bool((await self._tx.execute(_IS_INPUT_OF, {"user_id": user_id, "file_id": file_id})).scalar_one())
