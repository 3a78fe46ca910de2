"""Stream an answer of several messages as one text."""

from __future__ import annotations

from grpo_host.agents.tracing import Tell


class Voice:
    """Passes text on, with a blank line between one message and the next."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._gap = False
        self.spoke = False

    def next_message(self) -> None:
        self._gap = self.spoke

    def __call__(self, text: str) -> None:
        if self._gap:
            self._gap = False
            self._tell("\n\n")
        self.spoke = self.spoke or bool(text)
        self._tell(text)
