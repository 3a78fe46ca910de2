"""The metrics of model calls, for when nobody records spans.

``opentelemetry-util-genai`` prepares a span's attributes even if there is no span to have them. On a
server whose model answers at once that costs as much as half of all its other work. The metrics, their
attributes and their buckets are that library's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram
    from opentelemetry.util.genai.handler import TelemetryHandler

    from grpo_host.agents.reply import Reply


class MeteredCalls:
    """Keeps the metrics of model calls in the instruments of ``handler``."""

    def __init__(self, handler: TelemetryHandler) -> None:
        # The library gives no other way to them; ``of`` is for a version that has them elsewhere.
        own: Any = handler._instruments
        self._duration, self._tokens = own.operation_duration, own.token_usage
        self._first_chunk, self._next_chunk = own.time_to_first_chunk, own.time_per_output_chunk

    @classmethod
    def of(cls, handler: TelemetryHandler) -> MeteredCalls | None:
        """None if the library has changed inside: calls then go through the library."""
        try:
            return cls(handler)
        except AttributeError:
            return None

    @contextmanager
    def call(self, provider: str, model: str, error_type: Callable[[BaseException], str]) -> Iterator[Any]:
        """Measure one model call; yields a ``ModelCall``."""
        attributes: dict[str, str] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
        }
        call = _MeteredCall(attributes, self._first_chunk, self._next_chunk)
        try:
            yield call
        except BaseException as problem:
            attributes["error.type"] = error_type(problem)
            raise
        finally:
            self._duration.record(time.perf_counter() - call.began, attributes)
            for kind, count in call.tokens.items():
                self._tokens.record(count, {**attributes, "gen_ai.token.type": kind})


class _MeteredCall:
    """A model call under way."""

    def __init__(self, attributes: dict[str, str], first_chunk: Histogram, next_chunk: Histogram) -> None:
        self._attributes, self._histogram, self._next_chunk = attributes, first_chunk, next_chunk
        self.began = self._last = time.perf_counter()
        self.tokens: dict[str, int] = {}

    def text(self, piece: str) -> None:
        now = time.perf_counter()
        self._histogram.record(now - self._last, self._attributes)
        self._last, self._histogram = now, self._next_chunk

    def replied(self, reply: Reply) -> None:
        self._attributes["gen_ai.response.model"] = self._attributes["gen_ai.request.model"]
        self.tokens = {"input": reply.prompt_tokens, "output": reply.completion_tokens}
