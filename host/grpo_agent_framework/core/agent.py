"""``Agent``: the base class of agents that answer texts by code of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class Agent(ABC):
    """Answers a text with a text.

    It plays episodes and is scored; nothing of it is trained. An agent whose model can be trained
    is a ``MultiTurnAgent``. ``config`` is for the subclass to read.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = dict(config or {})

    @abstractmethod
    async def generate_response(self, prompt: str) -> str:
        """The answer to ``prompt``, the latest message."""
