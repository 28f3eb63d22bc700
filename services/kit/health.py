"""The standard health service (`grpc.health.v1`): SERVING while the database answers and the server is not draining."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta

from grpc_health.v1 import health_pb2

from services.kit.calls import Call
from services.kit.errors import NotFound, ResourceExhausted, ShuttingDown

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]
CHECK_INTERVAL = 0.2
MAX_WATCHERS = 100


class ServiceUnknown(NotFound):
    """This server has no such service."""

    reason = "SERVICE_UNKNOWN"


class TooManyWatchers(ResourceExhausted):
    """The server has as many health watchers as it takes."""

    reason = "OVERLOADED"

    def __init__(self) -> None:
        super().__init__(retry_after=timedelta(seconds=10))


class HealthServicer:
    """Answers for the server as a whole (empty name) and for each of its services, which all share one fate."""

    def __init__(self, services: list[str], is_ready: Callable[[], bool], draining: asyncio.Event) -> None:
        self._names = {"", SERVICE.full_name, *services}
        self._is_ready = is_ready
        self._draining = draining
        self._watchers = 0

    async def Check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """The state now. Raises ServiceUnknown."""
        if request.service not in self._names:
            raise ServiceUnknown
        return health_pb2.HealthCheckResponse(status=self._status())

    async def List(self, request: health_pb2.HealthListRequest, call: Call) -> health_pb2.HealthListResponse:
        """The state of every service."""
        now = health_pb2.HealthCheckResponse(status=self._status())
        return health_pb2.HealthListResponse(statuses=dict.fromkeys(self._names, now))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state now and at each change; for a name that is not ours SERVICE_UNKNOWN.

        Each watcher looks for itself, so that one that does not read holds up nobody.
        """
        if self._watchers >= MAX_WATCHERS:
            raise TooManyWatchers
        self._watchers += 1
        told = None
        try:
            while True:
                ending = self._draining.is_set()
                known = request.service in self._names
                status = self._status() if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                if ending:
                    raise ShuttingDown
                with suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_INTERVAL):
                        await self._draining.wait()
        finally:
            self._watchers -= 1

    def _status(self) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        if self._is_ready() and not self._draining.is_set():
            return health_pb2.HealthCheckResponse.SERVING
        return health_pb2.HealthCheckResponse.NOT_SERVING
