"""Bringing to an end what was begun, although whoever asked for it has gone."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

from services.kit.errors import DomainError
from services.kit.faults import describe_fault

log = structlog.get_logger()

T = TypeVar("T")

LONGEST_SECONDS = 10.0

_at_work: set[asyncio.Task[Any]] = set()


class Asker:
    """Who has asked for something."""

    def __init__(self) -> None:
        self.is_gone = False
        """Whether the call was cancelled: nobody waits for a result."""


async def finish(work: Callable[[Asker], Coroutine[Any, Any, T]], *, seconds: float = LONGEST_SECONDS) -> T:
    """Do work that is not broken off when the caller is cancelled; it gets so many seconds more.

    The caller is cancelled then, once the work has ended: what it holds, such as a place in a queue, it holds until
    then. If it is cancelled twice, the work goes on without it.
    """
    asker = Asker()
    task = asyncio.create_task(work(asker))
    _at_work.add(task)
    task.add_done_callback(_at_work.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        asker.is_gone = True
        timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
        task.add_done_callback(lambda _: timer.cancel())
        task.add_done_callback(_tell)
        await asyncio.wait((task,))
        raise


def _tell(task: asyncio.Task[Any]) -> None:
    """Nobody else hears how the work ended."""
    if task.cancelled():
        log.warning("work broken off that took too long after its call was cancelled")
    elif (error := task.exception()) and not isinstance(error, DomainError):
        log.error("work failed after its call was cancelled", fault=describe_fault(error))
