"""Tries a provider's call again, with growing pauses or the one that the provider asks for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from grpo_backends.errors import PassingError, ProviderError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

LONGEST_PAUSE = 60.0
"""Seconds. A provider that asks for more is not asked again."""
_JITTER = random.SystemRandom()  # not ``random`` itself: processes that seed it alike would retry together


async def retried(call: Callable[[], Awaitable[T]], retries: int) -> T:
    """What ``call`` returns; it is called up to ``retries`` times more while it raises ``PassingError``."""
    try:
        return await call()  # by itself: tenacity costs 70 µs, which most calls need not pay
    except PassingError as problem:
        failed: list[PassingError] = [problem]
    from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

    async def attempt() -> T:
        if failed:
            raise failed.pop()
        return await call()

    attempts = AsyncRetrying(
        retry=retry_if_exception_type(PassingError),
        stop=stop_after_attempt(retries + 1),
        wait=_pause,
        reraise=True,
    )
    return await attempts(attempt)


def passing(message: str, where: str, status: int | None, retry_after: str | None) -> ProviderError:
    """The failure of a call that may succeed later. ``retry_after`` is the header (a date is not read)."""
    try:
        seconds = max(0.0, float(retry_after or ""))
    except ValueError:
        seconds = None
    if seconds is not None and seconds > LONGEST_PAUSE:
        return ProviderError(
            f"{where}: asks to wait {seconds:g} s (status {status}); "
            "lower the concurrency, or try again later",
            status=status,
        )
    return PassingError(message, status=status, retry_after=seconds)


def _pause(state: RetryCallState) -> float:
    problem = state.outcome and state.outcome.exception()
    if isinstance(problem, PassingError) and problem.retry_after:
        return problem.retry_after
    return min(LONGEST_PAUSE, 0.5 * 2.0 ** (state.attempt_number - 1)) * _JITTER.uniform(0.75, 1.25)
