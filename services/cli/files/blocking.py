"""Reads and writes of pipes that may wait for ever."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, TypeVar

from services.cli.client.ending import Failed

R = TypeVar("R")


def descriptor_of(stream: TextIO | None, name: str) -> int:
    """That of stdin or stdout. Raises Failed if the process was started without it."""
    if stream is None:
        raise Failed(f"{name} is closed")
    return stream.fileno()


def in_the_background(work: Callable[[], R]) -> "asyncio.Future[R]":
    """Do something that may block for ever, in a thread that the process does not wait for when it ends."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def settle(settling: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            settling(value)

    def run() -> None:
        try:
            settling, value = future.set_result, work()
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is raised where the work is awaited
            settling, value = future.set_exception, error  # type: ignore[assignment]  # of two methods of one shape
        with suppress(RuntimeError):  # The loop has ended, and nobody waits for this any more.
            loop.call_soon_threadsafe(settle, settling, value)

    threading.Thread(target=run, daemon=True).start()
    return future
