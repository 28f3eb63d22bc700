"""From a command line to a running service and back: settings, logging, the event loop, signals, the exit code."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import structlog
import uvloop

from services.kit.faults import describe_fault
from services.kit.logs import configure_logging
from services.kit.server import AddressUnusable, PortTaken, Service, serve_until_stopped
from services.kit.settings import EXIT_BAD_SETTINGS, ServiceSettings, SettingUnusable, load

log = structlog.get_logger()

S = TypeVar("S", bound=ServiceSettings)
Wiring = Callable[[S], AbstractAsyncContextManager[Service]]

EXIT_PORT_TAKEN = 3
# A thread that computes in Python, such as one that estimates a password, otherwise keeps the event loop waiting for 5
# ms each time that the loop has something to do. More changes between threads cost nothing where one does all.
SWITCH_SECONDS = 0.0005


def run_service(name: str, settings_type: type[S], wiring: Wiring[S]) -> int:
    """Run one service until SIGTERM or SIGINT and return the exit code: 0 after an orderly stop."""
    settings = load(settings_type)
    configure_logging(settings, name)
    port: int = getattr(settings, f"{name}_port")

    async def serve(stop: asyncio.Event) -> None:
        async with wiring(settings) as service:
            spare_what_stays()
            await serve_until_stopped(service, settings, port=port, stop=stop)

    try:
        return run_until_signal(serve)
    except PortTaken as taken:
        sys.stderr.write(f"parley: {taken} is taken: stop what listens there, or set PARLEY_{name.upper()}_PORT\n")
        return EXIT_PORT_TAKEN
    except SettingUnusable as unusable:
        return refuse(unusable)
    except AddressUnusable as unusable:
        sys.stderr.write(f"parley: {unusable}: set PARLEY_LISTEN_HOST or PARLEY_{name.upper()}_PORT\n")
        return EXIT_BAD_SETTINGS


def spare_what_stays() -> None:
    """Let the garbage collector leave alone what there is by now: modules, tables, statements.

    It would walk through all of that in each full collection, 60 ms in which nobody is answered.
    """
    gc.collect()
    gc.freeze()


def refuse(unusable: SettingUnusable) -> int:
    """Say what is wrong with a setting; the exit code."""
    sys.stderr.write(f"parley: {unusable}\n")
    return EXIT_BAD_SETTINGS


def run_until_signal(body: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Run `body` in a new event loop. SIGTERM and SIGINT set the event that it is given; a second one ends at once."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_unhandled)

        def on_signal() -> None:
            if stop.is_set():
                os._exit(1)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await body(stop)

    sys.setswitchinterval(SWITCH_SECONDS)
    uvloop.run(main())
    return 0


def _log_unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # asyncio's own line would repeat the text of the exception, which can quote rows.
    error = context.get("exception")
    log.error("unhandled", what=context["message"], fault=None if error is None else describe_fault(error))
