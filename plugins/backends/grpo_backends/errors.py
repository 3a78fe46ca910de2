"""Failures of a model's provider."""

from __future__ import annotations

from grpo_sdk import ContextOverflowError, ProviderError

__all__ = ["HttpError", "PassingError", "ProviderError", "TooLongError"]


class TooLongError(ProviderError, ContextOverflowError):
    """The provider says that the conversation does not fit."""


class PassingError(ProviderError):
    """A failure that may pass: ``retry_after`` is the number of seconds that the provider asks to wait."""

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class HttpError(PassingError):
    """No complete response came.

    ``resend`` is true if the server had not begun to answer on a connection that it may have
    been closing: another connection can be tried at once.
    """

    def __init__(self, message: str, *, resend: bool = False) -> None:
        super().__init__(message)
        self.resend = resend
