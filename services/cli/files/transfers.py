"""Several transfers at a time, each for itself, and Ctrl-C for all of them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.cli.client.ending import EXIT_FAILED, EXIT_INTERRUPTED, Failed
from services.cli.files.progress import Screen


@dataclass(frozen=True)
class Transfer:
    """What is to be done for one file."""

    name: str
    work: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Words:
    """What is said of transfers that are not carried out."""

    undone: str
    """What was not done with some files, after their number."""
    interrupted: str
    """That all of it was interrupted."""


async def carry_out(
    transfers: Sequence[Transfer], screen: Screen, words: Words, *, parallel: int, refused: int = 0
) -> int:
    """Do all of it, so many at a time; the exit code. A failure of one is said, and never ends the others.

    Ctrl-C ends all of them. `refused` is the number of those that were found to be impossible before.
    """
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None
    places = asyncio.Semaphore(parallel)
    failed = refused

    async def carry(transfer: Transfer) -> None:
        nonlocal failed
        async with places:
            try:
                await transfer.work()
            except Failed as failure:
                failed += 1
                screen.failed(transfer.name, failure)

    # By name: a shell that starts a command in the background has it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, me.cancel)
    try:
        with screen.shown():
            async with asyncio.TaskGroup() as group:
                for transfer in transfers:
                    group.create_task(carry(transfer))
    except asyncio.CancelledError:
        screen.note(words.interrupted)
        return EXIT_INTERRUPTED
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    total = len(transfers) + refused
    if failed and total > 1:
        screen.note(f"{failed} of {total} files {words.undone}")
    return EXIT_FAILED if failed else 0
