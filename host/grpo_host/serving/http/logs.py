"""The server's log: one line an event on stderr, without keys."""

from __future__ import annotations

import logging
import re
from typing import Any

from grpo_host.utils.redaction import redact

_QUERY = re.compile(r'("WebSocket [^"?]*)\?[^"]*')


class RedactingFormatter(logging.Formatter):
    """Leaves out whatever looks like a key, also from tracebacks, and what uvicorn tells of a query."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(_QUERY.sub(r"\1", super().format(record)))


def logging_config(level: str = "INFO") -> dict[str, Any]:
    """For ``logging.config.dictConfig``, in every process of the server."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": "grpo_host.serving.http.logs.RedactingFormatter",
                "fmt": "%(asctime)s %(levelname)s %(name)s: %(message)s",
            }
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
            }
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "grpo_host": {"level": level},
            "uvicorn": {"level": level},
            "uvicorn.access": {"level": "ERROR"},  # ours knows the key and the request's id
        },
    }
