"""Failures of a model's provider."""

from __future__ import annotations

from grpo_sdk import ContextOverflowError, ProviderError

__all__ = ["HttpError", "ProviderError", "TooLongError"]


class TooLongError(ProviderError, ContextOverflowError):
    """The provider says that the conversation does not fit."""


class HttpError(ProviderError):
    """No complete response came.

    ``resend`` is true if the server had not begun to answer on a connection that it may have
    been closing: another connection can be tried at once.
    """

    def __init__(self, message: str, *, resend: bool = False) -> None:
        super().__init__(message)
        self.resend = resend
