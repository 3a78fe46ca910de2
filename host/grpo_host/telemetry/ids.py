"""Ids of traces and spans that no seed repeats."""

from __future__ import annotations

import secrets

from opentelemetry.sdk.trace.id_generator import IdGenerator


class SystemIds(IdGenerator):
    """Ids from the operating system. OpenTelemetry's own come from ``random``, which engines and trainers
    seed: every start would begin with the same trace."""

    def generate_span_id(self) -> int:
        return secrets.randbits(64) or self.generate_span_id()  # 0 means "no span"

    def generate_trace_id(self) -> int:
        return secrets.randbits(128) or self.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return True
