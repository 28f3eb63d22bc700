"""Providers that are asked over HTTP through their SDK. What surrounds the asking is the same for all, and is here.

The SDKs could ask again by themselves, but not after an error that comes within the stream, and one of them waits for
as long as `retry-after` says, be it a day. So that is turned off in them, and one budget counts for everything.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import structlog

from services.agent.providers import Fault, Piece, Prompt
from services.agent.providers.failures import RemoteFailure, of_status, of_transport

if TYPE_CHECKING:
    import httpx2

FIRST_WAIT = 0.5
"""Seconds until a provider that has not said when is asked again, at the most; twice as long each time."""

_CONNECTING = 10.0
_DRAINING = 0.1
_EVENTS = "text/event-stream"
# What reading events that are none of the protocol's ends with, in the SDKs and here.
_NOT_THE_PROTOCOL = (AttributeError, LookupError, TypeError, ValueError, RuntimeError)

Event = TypeVar("Event")
Event_co = TypeVar("Event_co", covariant=True)
Event_contra = TypeVar("Event_contra", contravariant=True)

log = structlog.get_logger()


class Events(Protocol[Event_co]):
    """An answer as an SDK has it."""

    response: "httpx2.Response"

    def __aiter__(self) -> AsyncIterator[Event_co]:
        """The events as they come."""


class Reader(Protocol[Event_contra]):
    """Makes pieces of the events of one answer."""

    def read(self, event: Event_contra) -> Iterable[Piece]:
        """The pieces that this event completes."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer has ended. What else may come is of no interest."""

    def end(self) -> Iterable[Piece]:
        """The pieces that were kept back, when there are no more events. Raises ProviderFailure if there should be."""


class RemoteProvider(ABC, Generic[Event]):
    """A provider behind an SDK. It is an async context manager that closes its connections."""

    takes_images = True

    def __init__(self, name: str, *, api_key: str | None, retries: int) -> None:
        self._name = name
        self._secret = api_key
        self._retries = retries

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[AsyncIterator[Piece]]:
        """As Provider has it."""
        async with aclosing(self._pieces(prompt)) as pieces:
            yield pieces

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """What the SDK raises when the provider fails."""

    @abstractmethod
    def _request(self, prompt: Prompt) -> Mapping[str, Any]:
        """The prompt as the provider takes it. Raises ProviderFailure."""

    @abstractmethod
    async def _open(self, request: Mapping[str, Any]) -> AbstractAsyncContextManager[Events[Event]]:
        """Ask once."""

    @abstractmethod
    def _reader(self) -> Reader[Event]:
        """A reader for a new answer."""

    @abstractmethod
    def _status(self, error: Exception) -> int | None:
        """The HTTP status of an error that the provider told of itself, in the stream or instead; None for others."""

    async def _pieces(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        request = self._request(prompt)
        for asked in count(1):
            begun = False
            try:
                async with aclosing(self._ask(request)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
            except RemoteFailure as failure:
                if begun or not failure.passes or asked > self._retries:
                    raise
                # Not all at the same time: they may have failed together.
                wait = failure.wait or FIRST_WAIT * 2 ** (asked - 1) * random.uniform(0.5, 1)  # noqa: S311  # no secret
                log.info("provider asked again", provider=self._name, fault=failure.fault.value, wait=round(wait, 3))
            else:
                return
            await asyncio.sleep(wait)

    async def _ask(self, request: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        begun = False
        try:
            async with await self._open(request) as events:
                begun = True
                _expect_events(events.response)
                reader = self._reader()
                stream = aiter(events)
                async for event in stream:
                    for piece in reader.read(event):
                        yield piece
                    if reader.is_whole:
                        await self._drain(stream)
                        break
                for piece in reader.end():
                    yield piece
        except self._errors as error:
            # The SDK's exceptions hold the request with its key, and are not handed on.
            raise self._failure(error, begun=begun) from None
        except _NOT_THE_PROTOCOL as error:
            if not begun:
                raise
            raise RemoteFailure(Fault.GARBLED, f"{type(error).__name__} in what came") from None

    async def _drain(self, stream: AsyncIterator[Event]) -> None:
        """Read what little is behind a whole answer: only then the connection can be used again."""
        with suppress(TimeoutError, *self._errors, *_NOT_THE_PROTOCOL):
            async with asyncio.timeout(_DRAINING):
                async for _ in stream:
                    pass

    def _failure(self, error: Exception, *, begun: bool) -> RemoteFailure:
        status = self._status(error)
        if status is None:
            return of_transport(error, begun=begun)
        response = getattr(error, "response", None)
        said = str(error).replace(self._secret, "[key]") if self._secret else str(error)
        return of_status(status, said, response.headers if response is not None else {})


def timeouts(silence: float) -> "httpx2.Timeout":
    """No byte for so many seconds is too long."""
    import httpx2  # noqa: PLC0415  # comes with the extras that may not be installed

    return httpx2.Timeout(silence, connect=_CONNECTING)


def transport_errors() -> tuple[type[Exception], ...]:
    """What the connection under an SDK may raise."""
    import httpx2  # noqa: PLC0415  # comes with the extras that may not be installed

    return (httpx2.HTTPError, httpx2.StreamError)


def any_number_of_connections() -> "httpx2.Limits":
    """How many executions there may be at a time is not decided here."""
    import httpx2  # noqa: PLC0415  # comes with the extras that may not be installed

    return httpx2.Limits(max_connections=None, max_keepalive_connections=100)


def expect_text(value: object) -> str:
    """What should be text. The SDKs do not look. Raises TypeError, which is a garbled answer."""
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def expect_count(value: object) -> int:
    """What should be a number of tokens. Raises TypeError, which is a garbled answer."""
    if not isinstance(value, int) or value < 0:
        raise TypeError(type(value).__name__)
    return value


def _expect_events(response: "httpx2.Response") -> None:
    kind = response.headers.get("content-type", "")
    if not kind.lower().startswith(_EVENTS):
        raise RemoteFailure(Fault.GARBLED, f"an answer of type {kind[:100]!r} instead of {_EVENTS}")
