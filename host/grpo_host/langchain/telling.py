"""Stream what an app says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from grpo_host.agents.reply import OnText
from grpo_host.chat.voice import Voice


class Telling:
    """Tells ``on_text`` what the app's model says, a blank line between its calls, and at last the answer.

    Of calls that are answered side by side, only the one that began first is told.
    """

    def __init__(self, on_text: OnText) -> None:
        self._voice = Voice(on_text)
        self._busy = False
        self._said = ""
        """By the call that was told last."""

    @contextmanager
    def listen(self, on_text: OnText | None) -> Iterator[OnText | None]:
        """For one call of the model, which ``on_text`` is told too."""
        if self._busy:
            yield on_text
            return
        self._busy, self._said = True, ""
        self._voice.next_message()

        def told(text: str) -> None:
            self._said += text
            self._voice(text)
            if on_text is not None:
                on_text(text)

        try:
            yield told
        finally:
            self._busy = False

    def end(self, answer: str) -> str:
        """The answer as it was told: it is told now, unless it is what was said last."""
        if _same(self._said, answer):
            return self._said
        self._voice.next_message()
        self._voice(answer)
        return answer


def _same(one: str, other: str) -> bool:
    return one == other or (bool(one) and _read(one) == _read(other) is not None)


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
