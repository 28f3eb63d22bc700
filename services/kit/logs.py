"""Logging: one configuration, made first and once, for structlog and for the standard library's loggers."""

import logging
import sys
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import structlog

from services.kit.faults import describe_fault
from services.kit.settings import LogSettings


def configure_logging(settings: LogSettings, process: str) -> None:
    """Send every log line of this process to standard error, as text for people or as one JSON object a line.

    That includes what libraries log, warnings, and the exception that ends the process.

    An exception is written as `describe_fault` does, whoever logs it: never with the values of variables.

    Call it before gRPC starts: configuring logging later can deadlock with gRPC's threads.
    """
    level = getattr(logging, settings.log_level.upper())
    as_json = settings.log_format == "json"
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level if as_json else _add_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exception,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    if as_json:
        shared.insert(0, _named(process))
        sys.excepthook = _log_crash
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_tells_no_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    # It tells of every attempt to connect. `kit.database` says once that the database is away.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _named(process: str) -> structlog.typing.Processor:
    def add_process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["process"] = process
        return event

    return add_process


def _add_level(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["level"] = method
    return event


def _describe_exception(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # structlog's renderer for people would show every frame with its local variables: passwords, tokens, messages.
    info = event.pop("exc_info", None)
    error = info[1] if isinstance(info, tuple) else info if isinstance(info, BaseException) else sys.exception()
    if info and error is not None:
        event["fault"] = describe_fault(error)
    return event


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    structlog.get_logger().critical("crashed", fault=describe_fault(error))


def _tells_no_arguments(record: logging.LogRecord) -> bool:
    """Not what procrastinate says of a failed job, which repeats its arguments: `kit.jobs` tells of it without them."""
    return getattr(record, "action", None) != "job_error"
