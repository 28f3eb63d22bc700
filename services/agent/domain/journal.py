"""What one attempt at an execution does, written down without waiting; `services.agent.domain.scribe` stores it."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from services.agent.models.events import Body, TextDelta, UsageChanged
from services.agent.models.executions import Execution
from services.agent.repository.events import Batch

MAX_DELTA_CHARACTERS = 16 * 1024
MAX_WAITING_CHARACTERS = 256 * 1024


class LeaseLost(Exception):
    """Another process has the execution, or it has ended: nothing more of this attempt is stored."""


class Journal:
    """What one attempt at an execution has to tell. Made by `Scribe.open`."""

    def __init__(
        self, execution: Execution, clock: Callable[[], datetime], on_news: Callable[["Journal"], None]
    ) -> None:
        self.execution_id = execution.id
        self.attempt = execution.attempt
        self.appended = 0
        """How many events of this attempt are stored."""
        self.size = 0
        """Bytes of UTF-8 of the output so far."""
        self.usage = UsageChanged(0, 0)
        self.lost = False
        self._parts: list[str] = []
        self._waiting: list[tuple[datetime, Body]] = []
        self._characters = 0
        self._clock = clock
        self._on_news = on_news
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def output(self) -> str:
        """The text so far, stored or not."""
        return "".join(self._parts)

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be stored that its writer had better wait for that."""
        return self._characters > MAX_WAITING_CHARACTERS

    def write_text(self, text: str) -> None:
        """The answer goes on with this text. Of an attempt that has lost its execution, nothing is written any more."""
        if self.lost:
            return
        self._parts.append(text)
        last = self._waiting[-1][1] if self._waiting else None
        if isinstance(last, TextDelta) and len(last.text) < MAX_DELTA_CHARACTERS:
            last.text += text
        else:
            self.write(TextDelta(self.size, text))
        self.size += len(text) if text.isascii() else len(text.encode())
        self._characters += len(text)

    def write(self, body: Body) -> None:
        """Something else has happened."""
        if self.lost:
            return
        if isinstance(body, UsageChanged):
            self.usage = body
        self._waiting.append((self._clock(), body))
        if self._settled.is_set():
            self._settled.clear()
            self._on_news(self)

    async def settle(self) -> None:
        """Return once everything written is stored. Raises LeaseLost."""
        await self._settled.wait()
        if self.lost:
            raise LeaseLost

    def take(self) -> Batch:
        """What is to be stored now."""
        events, self._waiting, self._characters = self._waiting, [], 0
        return Batch(self.execution_id, self.attempt, self.appended, events)

    def stored(self, batch: Batch) -> bool:
        """A batch is stored, which may be said twice; whether more was written in the meantime."""
        self.appended = batch.appended + len(batch.events)
        if not self._waiting:
            self._settled.set()
        return bool(self._waiting)

    def lose(self) -> None:
        """Nothing more will be stored."""
        self.lost = True
        self._waiting.clear()
        self._settled.set()
