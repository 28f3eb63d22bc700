"""Calls that were refused to callers of the wrong kind, on their way to auth's audit log."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from uuid import UUID

import grpc
import structlog

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit.origin import Origin
from services.kit.outage import Outage
from services.kit.timestamps import to_timestamp

log = structlog.get_logger()

GATHER_SECONDS = 1.0
SEND_TIMEOUT = 5.0
LAST_SEND_SECONDS = 1.0
LAST_RETRY = 10.0
BATCH = 100
MOST_WAITING = 1000
# Not worth sending again: auth has seen them and does not take them.
_HOPELESS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that its caller may not make."""

    id: UUID
    create_time: datetime
    method: str
    """Its full name, such as `parley.agent.v1.AgentService/GetAgent`."""
    subject_id: UUID
    session_id: UUID
    origin: Origin


class RefusalReporter:
    """Sends refusals to auth, those of a second together. At most 1000 wait; of others only the number is told."""

    def __init__(self, auth: auth_grpc.AuthServiceStub) -> None:
        self._auth = auth
        self._waiting: deque[Refusal] = deque()
        self._dropped = 0
        self._news = asyncio.Event()
        self._away = Outage("refused calls cannot be told to auth", "refused calls are told to auth again")

    def take(self, refusal: Refusal) -> None:
        """Take one to be sent. It returns at once."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(refusal)
        self._news.set()

    async def send_for_ever(self) -> None:
        """Send what comes."""
        pause = GATHER_SECONDS
        while True:
            await self._news.wait()
            await asyncio.sleep(pause)
            try:
                await self.send()
                pause = GATHER_SECONDS
            except grpc.aio.AioRpcError as error:
                self._away.goes_on(code=error.code().name, waiting=len(self._waiting))
                pause = min(pause * 2, LAST_RETRY)

    async def send(self) -> None:
        """Send all that wait. Raises AioRpcError, and keeps what it could not send: auth knows it by its id."""
        while self._waiting:
            batch = list(islice(self._waiting, BATCH))
            try:
                await self._auth.RecordRefusals(
                    auth_pb2.RecordRefusalsRequest(refusals=[_to_message(refusal) for refusal in batch]),
                    timeout=SEND_TIMEOUT,
                )
            except grpc.aio.AioRpcError as error:
                if error.code() not in _HOPELESS:
                    raise
                log.warning("refused calls not taken down", code=error.code().name, count=len(batch))
            for _ in batch:
                self._waiting.popleft()
        self._news.clear()
        self._away.is_over()
        if self._dropped:
            log.warning("refused calls not taken down", code="too many at once", count=self._dropped)
            self._dropped = 0


@asynccontextmanager
async def telling_refusals(auth: auth_grpc.AuthServiceStub) -> AsyncIterator[RefusalReporter]:
    """A reporter that sends for the time of the block, and at its end what still waits, within a second."""
    reporter = RefusalReporter(auth)
    task = asyncio.create_task(reporter.send_for_ever(), name="tell-refusals")
    try:
        yield reporter
    finally:
        task.cancel()
        await asyncio.wait((task,))
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await reporter.send()


def _to_message(refusal: Refusal) -> auth_pb2.RecordRefusalsRequest.Refusal:
    return auth_pb2.RecordRefusalsRequest.Refusal(
        id=str(refusal.id),
        create_time=to_timestamp(refusal.create_time),
        method=refusal.method,
        subject_id=str(refusal.subject_id),
        session_id=str(refusal.session_id),
        address=refusal.origin.address,
        user_agent=refusal.origin.user_agent,
    )
