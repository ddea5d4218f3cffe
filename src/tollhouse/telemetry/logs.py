"""Logs: one JSON object a line on standard error, or columns for people at a terminal."""

import logging
import sys
from typing import Literal

import structlog


def configure_logs(*, as_json: bool, level: Literal["info", "warning"]) -> None:
    """Send structlog's and the libraries' messages to standard error.

    Args:
        level: the least of structlog's messages that are sent; of the libraries' it is always "warning".
    """
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            # The default formatter prints the values of local variables, among which are prompts and keys.
            colors=False,
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer] if as_json else [*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # uvicorn tells of its own start and stop, which the service tells itself.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
