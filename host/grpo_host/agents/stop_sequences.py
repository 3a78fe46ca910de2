"""Texts at which an answer ends, also while it is streamed."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopSequences:
    """Passes text on up to the first of ``stops``; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str], on_text: Callable[[str], None] | None = None) -> None:
        self._stops = [stop for stop in stops if stop]
        self._on_text = on_text or (lambda _: None)
        self._held = ""
        self._told = 0
        self._stopped = False

    def __call__(self, text: str) -> None:
        if self._stopped:
            return
        self._held += text
        found = min((at for stop in self._stops if (at := self._held.find(stop)) >= 0), default=None)
        waiting = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        sure = len(self._held) - waiting
        if found is not None and found <= sure:  # else one that is not whole yet may begin before it
            self._stopped = True
            sure = found
        self._pass_on(sure)

    def end(self, whole: str) -> str:
        """``whole``, the answer's text, up to the first stop; what was held back of it is passed on."""
        found = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        text = whole[: min(found)] if found else whole
        if self._told < len(text):
            self._on_text(text[self._told :])
        self._stopped = True
        return text

    def _pass_on(self, length: int) -> None:
        if length > 0:
            self._on_text(self._held[:length])
            self._told += length
            self._held = self._held[length:]


def _overlap(text: str, stop: str) -> int:
    """How much of the end of ``text`` may be the beginning of ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
