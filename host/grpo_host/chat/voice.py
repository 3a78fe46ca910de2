"""Stream an answer of several messages as one text."""

from __future__ import annotations

from grpo_host.agents.reply import OnText


class Voice:
    """Passes text on, with a blank line between one message and the next."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._gap = False
        self.spoke = False

    def next_message(self) -> None:
        self._gap = self.spoke

    def __call__(self, text: str) -> None:
        if self._gap:
            self._gap = False
            self._on_text("\n\n")
        self.spoke = self.spoke or bool(text)
        self._on_text(text)
