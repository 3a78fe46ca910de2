"""The context of the caller's trace as lines of a request's head: the server's spans become its children.

``vllm serve --otlp-traces-endpoint`` and most gateways read them.
"""

from __future__ import annotations

import sys


def head_lines() -> bytes:
    """``traceparent: …`` and what belongs to it, each line ended; empty if no span is active."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        return b""
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    # Baggage and trace state come from whoever called us: nothing of them may end a line.
    lines = [
        f"{name}: {value}\r\n" for name, value in headers.items() if value.isprintable() and value.isascii()
    ]
    return "".join(lines).encode("ascii")
