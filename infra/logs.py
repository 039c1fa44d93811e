"""Structured logs on standard error: JSON for machines, columns for a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from infra.settings import Settings

_SENSITIVE = ("token", "secret", "password", "signature", "authorization")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for constant event names plus fields: `log.info("frames_ingested", added=12)`.

    It stands on the standard library's logging, so before `configure` only warnings appear, and never on standard
    output.
    """
    return structlog.stdlib.BoundLogger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _hide_sensitive,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        context={},
    )


def configure(settings: Settings, *, debug: bool = False, quiet: bool = False) -> None:
    """Sends this process's logs to standard error. Calling it again replaces the earlier choice.

    Args:
        debug: Ours speak from debug up.
        quiet: Ours speak from warning up, for commands whose output is for a person.
    """
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    renderer: Any
    if as_json:
        final: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        final = [renderer]
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # The libraries speak only when something is wrong, even while debugging ours.
    level = logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
    for room in ("infra", "selection", "annotation", "training", "service"):
        logging.getLogger(room).setLevel(level)


def _hide_sensitive(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if key != "event" and any(word in key.lower() for word in _SENSITIVE):
            event[key] = "***"
    return event
