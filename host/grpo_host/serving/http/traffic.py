"""Counts what this process has answered."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from typing import Any

WINDOW = 1000


class Traffic:
    """Counts answers by status, and keeps how long the last thousand took."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._statuses: Counter[int] = Counter()
        self._seconds: deque[float] = deque(maxlen=WINDOW)

    def count(self, status: int, seconds: float) -> None:
        self._statuses[status] += 1
        self._seconds.append(seconds)

    def snapshot(self) -> dict[str, Any]:
        """The fields of ``Requests`` that are counted here."""
        seconds = list(self._seconds)
        p95 = statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else sum(seconds)
        return {
            "total": self._statuses.total(),
            "by_status": {str(status): count for status, count in sorted(self._statuses.items())},
            "seconds_median": statistics.median(seconds) if seconds else 0.0,
            "seconds_p95": p95,
        }

    @property
    def uptime(self) -> float:
        return time.monotonic() - self._began
