"""What a model answers, whole and as it comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grpo_sdk.backend import FinishReason
from grpo_sdk.messages import Message

OnText = Callable[[str], None]
"""Is called with the text of an answer piece by piece."""


@dataclass(slots=True)
class Reply:
    """The assistant's next message and what it took."""

    message: Message
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
