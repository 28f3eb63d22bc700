"""What an operator's command does in the database beside the running services, and how it ends."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TypeVar

from psycopg.errors import InsufficientPrivilege, UndefinedTable
from sqlalchemy.exc import ProgrammingError

from services.cli.installation import load_operator_settings
from services.kit.errors import DomainError
from services.kit.logs import configure_logging
from services.kit.process import refuse
from services.kit.settings import DatabaseSettings, SettingUnusable

O = TypeVar("O")  # noqa: E741  # what is opened
R = TypeVar("R")
S = TypeVar("S", bound=DatabaseSettings)

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
DATABASE_SECONDS = 8.0


def operate(
    name: str,
    kind: type[S],
    opening: Callable[[S], AbstractAsyncContextManager[O]],
    work: Callable[[O], Awaitable[R]],
) -> R:
    """Do something with what a service's wiring opens with its settings, and answer with what came of it.

    Where that fails the process ends, after one line on stderr for each thing that is wrong.
    """
    settings = load_operator_settings(kind)
    # What is done is said by the command, and where it is about accounts taken down in the audit log.
    configure_logging(settings.model_copy(update={"log_level": "error"}), name)

    async def work_on_database() -> R:
        # By name: a shell that starts a command in the background has it ignore SIGINT.
        task = asyncio.current_task()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)  # type: ignore[union-attr]  # in a task
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(DATABASE_SECONDS):
                    opened = await stack.enter_async_context(opening(settings))
            except TimeoutError:
                sys.stderr.write(
                    "parley: the database cannot be used: check PARLEY_DATABASE_URL, and `parley migrate`\n"
                )
                raise SystemExit(EXIT_FAILED) from None
            return await work(opened)

    try:
        return asyncio.run(work_on_database())
    except SettingUnusable as unusable:
        raise SystemExit(refuse(unusable)) from None
    except DomainError as failure:
        say(failure)
        raise SystemExit(EXIT_FAILED) from None
    except ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege | UndefinedTable):
            raise
        sys.stderr.write(
            "parley: the database's user may not do this: check PARLEY_DATABASE_URL, and `parley migrate`\n"
        )
        raise SystemExit(EXIT_FAILED) from None
    except asyncio.CancelledError:
        raise SystemExit(EXIT_INTERRUPTED) from None


def say(failure: DomainError) -> None:
    """What cannot be done, on stderr: field by field if it is fields that are wrong."""
    for line in [f"{field.field} {field.description}" for field in failure.fields] or [str(failure)]:
        sys.stderr.write(f"parley: {line}\n")
