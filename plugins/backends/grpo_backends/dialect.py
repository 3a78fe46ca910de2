"""Learn how one provider names the sampling settings, and which of them it refuses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from grpo_sdk import Capability, Sampling

logger = logging.getLogger("grpo_backends")

CAPABILITIES = frozenset(
    {Capability.CHAT, Capability.TOOLS, Capability.STREAMING, Capability.STRUCTURED, Capability.PARTS}
)
"""Of a backend that speaks OpenAI's chat protocol."""

_OLD, _NEW = "max_tokens", "max_completion_tokens"
_REFUSED = (
    "unsupported",
    "not support",
    "only the default",
    "deprecated",
    "not allowed",
    "not permitted",
    "cannot both",
)
_LEFT_OUT = ("top_p", "temperature")
"""If a refusal names both, as of a provider that takes only one of them, the first is left out first."""


class Dialect:
    """Begins with the settings that every server knows, and learns from refusals, once for all requests."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._limit = _OLD
        self._left_out: set[str] = set()

    def settings(self, sampling: Sampling) -> dict[str, Any]:
        """The settings whose names or existence depend on the provider."""
        wanted: dict[str, Any] = {self._limit: sampling.max_tokens, "temperature": sampling.temperature}
        if sampling.top_p < 1:
            wanted["top_p"] = sampling.top_p
        return {name: value for name, value in wanted.items() if name not in self._left_out}

    def learn(self, sent: Mapping[str, Any], refusal: str) -> bool:
        """Learn from ``refusal`` of the settings ``sent``; return whether asking again is worth it."""
        said = refusal.lower()
        if _OLD in sent and _NEW in said:
            self._limit = _NEW
            return True
        if not any(words in said for words in _REFUSED):
            return False
        for name in _LEFT_OUT:
            if name in sent and name in said:
                if name not in self._left_out:
                    self._left_out.add(name)
                    logger.warning(
                        "%s takes no %s: it is left out, and the provider's own counts", self._provider, name
                    )
                return True
        return False
