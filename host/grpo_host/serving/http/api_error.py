"""A request that cannot be answered as it was asked."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_sdk.errors import GrpoError


class ApiError(GrpoError):
    """A request cannot be answered as it was asked; ``message`` is for the caller."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        """For programs: ``not_found``, ``rate_limited``, …"""
        self.message = message
        self.retry_after = retry_after
        """Seconds."""
        self.param = param
        """The field of the request that is wrong."""
        self.headers = dict(headers or {})
