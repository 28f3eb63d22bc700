"""Calls that were refused to callers of the wrong kind, on their way to auth's audit log."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import grpc
import structlog

from parley.auth.v1 import auth_service_pb2 as auth_pb2
from parley.auth.v1 import auth_service_pb2_grpc as auth_grpc
from services.kit.background import in_background
from services.kit.ids import utc_now
from services.kit.outage import Outage
from services.kit.refusal_tally import Refusal, RefusalTally
from services.kit.timestamps import to_timestamp

log = structlog.get_logger()

GATHER_SECONDS = 1.0
SEND_TIMEOUT = 5.0
LAST_SEND_SECONDS = 1.0
LAST_RETRY = 10.0
# Auth takes none that are older than an hour, nor any that come with one.
TOLD_WITHIN = timedelta(minutes=55)
BATCH = 100
# Not worth sending again: auth has seen them and does not take them.
_HOPELESS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


class RefusalReporter:
    """Sends refusals to auth, those of a second together, and those that are alike as one."""

    def __init__(self, auth: auth_grpc.AuthServiceStub) -> None:
        self._auth = auth
        self._tally = RefusalTally()
        self._news = asyncio.Event()
        self._away = Outage("refused calls cannot be told to auth", "refused calls are told to auth again")

    def take(self, refusal: Refusal) -> None:
        """Take one to be sent. It returns at once."""
        self._tally.take(refusal)
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
                self._away.goes_on(code=error.code().name, waiting=len(self._tally))
                pause = min(pause * 2, LAST_RETRY)

    async def send(self) -> None:
        """Send all that are to be told by now.

        Raises AioRpcError, and keeps what it could not send: auth knows it by its id.
        """
        while batch := self._tally.next(BATCH):
            oldest = utc_now() - TOLD_WITHIN
            fresh = [refusal for refusal in batch if refusal.create_time > oldest]
            if len(fresh) < len(batch):
                log.warning("refused calls not taken down", code="too late", count=len(batch) - len(fresh))
            if fresh:
                await self._tell(fresh)
            self._tally.told(len(batch))
        if self._tally.is_empty:
            self._news.clear()
        self._away.is_over()
        if dropped := self._tally.take_dropped():
            log.warning("refused calls not taken down", code="too many at once", count=dropped)

    async def _tell(self, refusals: Sequence[Refusal]) -> None:
        try:
            await self._auth.RecordRefusals(
                auth_pb2.RecordRefusalsRequest(refusals=[_to_message(refusal) for refusal in refusals]),
                timeout=SEND_TIMEOUT,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() not in _HOPELESS:
                raise
            log.warning("refused calls not taken down", code=error.code().name, count=len(refusals))

    async def send_last(self) -> None:
        """Send all that there is, if that is soon done."""
        self._tally.end_all()
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await self.send()


@asynccontextmanager
async def telling_refusals(auth: auth_grpc.AuthServiceStub) -> AsyncIterator[RefusalReporter]:
    """A reporter that sends for the time of the block, and at its end what still waits, within a second."""
    reporter = RefusalReporter(auth)
    try:
        async with in_background(reporter.send_for_ever(), "tell-refusals"):
            yield reporter
    finally:
        await reporter.send_last()


def _to_message(refusal: Refusal) -> auth_pb2.RecordRefusalsRequest.Refusal:
    return auth_pb2.RecordRefusalsRequest.Refusal(
        id=str(refusal.id),
        create_time=to_timestamp(refusal.create_time),
        method=refusal.method,
        subject_id=str(refusal.subject_id),
        session_id=str(refusal.session_id),
        address=refusal.origin.address,
        user_agent=refusal.origin.user_agent,
        count=refusal.count,
    )
