"""How often a key, or an address without one, may ask."""

from __future__ import annotations

import time

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.serving.access.caller import Key


class RateLimits:
    """Counts in this process: with several, each allows the rate."""

    def __init__(self, rate: str | None, failed_rate: str) -> None:
        self._rate = parse(rate) if rate else None
        self._failed = parse(failed_rate)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def count(self, key: Key) -> None:
        """One request or message of ``key``. Raises ``ApiError`` 429 if it is one too many."""
        if self._rate is None:
            return
        if not await self._limiter.hit(self._rate, "key", key.id):
            raise await self._refusal(self._rate, "key", key.id)

    async def count_failure(self, address: str) -> None:
        """One request without a valid key from ``address``."""
        await self._limiter.hit(self._failed, "address", address)

    async def has_failed(self, address: str) -> bool:
        """Whether ``address`` has come without a valid key too often."""
        return not await self._limiter.test(self._failed, "address", address)

    async def refuse_after_failures(self, address: str) -> None:
        """Raises ``ApiError`` 429 if ``has_failed``."""
        if await self.has_failed(address):
            raise await self._refusal(self._failed, "address", address)

    async def _refusal(self, rate: RateLimitItem, *identifiers: str) -> ApiError:
        window = await self._limiter.get_window_stats(rate, *identifiers)
        seconds = max(1.0, window.reset_time - time.time())
        return ApiError(429, "rate_limited", f"too many requests; {rate} are allowed", retry_after=seconds)
