"""Count what a judge costs: calls, tokens, money."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from grpo_sdk.backend import ChatReply


@dataclass
class JudgeUsage:
    """Counts since the reward was made."""

    groups: int = 0
    """Groups that were scored."""
    calls: int = 0
    """Answers of the judge, useless ones included."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    """US dollars, of the calls whose price the backend knows."""
    unpriced_calls: int = 0
    """Calls whose price the backend does not know: if there are any, ``cost`` is too low."""
    cached: int = 0
    """Verdicts from the cache, which took no call."""
    retries: int = 0
    """Calls that failed on the way and were tried again."""
    corrections: int = 0
    """Answers that could not be used, so that the judge was asked to correct them."""
    failures: int = 0
    """Groups left without scores."""

    def add(self, reply: ChatReply) -> None:
        """Count one answer."""
        self.calls += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        if reply.cost is None:
            self.unpriced_calls += 1
        else:
            self.cost += reply.cost

    def as_dict(self) -> dict[str, Any]:
        """The counts by name."""
        return asdict(self)
