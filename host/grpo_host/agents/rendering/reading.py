"""The text that sampled ids say, while they come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from grpo_host.agents.rendering.call_scan import CallForm, scan
from grpo_host.agents.rendering.tool_calls import TEXT
from grpo_sdk.backend import Tokenizer


class TextReader(Protocol):
    """Reads one assistant message as it is sampled."""

    def feed(self, ids: Sequence[int]) -> str:
        """What ``ids`` add for a user to see: together always a beginning of the message's text."""


class GrowingReader:
    """Shows how the text grows that ``parse`` finds in the ids so far.

    If there are ``tools``, a text that begins like a call is not shown before it is complete: some
    formats write calls as plain text.
    """

    def __init__(self, parse: Callable[[Sequence[int]], str], *, tools: bool) -> None:
        self._parse = parse
        self._calls = ("{", "[", "<") if tools else ()
        self._ids: list[int] = []
        self._shown = ""

    def feed(self, ids: Sequence[int]) -> str:
        self._ids += ids
        text = self._parse(self._ids).rstrip("\ufffd").rstrip()  # half a character, space before a call
        if text.lstrip().startswith(self._calls) or not text.startswith(self._shown):
            return ""
        new = text[len(self._shown) :]
        self._shown = text
        return new


class PlainReader:
    """Reads plain text, in which calls of ``form`` are not for the user if ``tools`` is true.

    What may still become part of a character, of a tool call, or of the space around the text is
    held back. ``decode`` is for where special tokens are part of a call.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop_ids: Collection[int],
        *,
        tools: bool,
        form: CallForm = TEXT,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self._decode = decode or (lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
        self._stop_ids = stop_ids
        self._tools = tools
        self._form = form
        self._ids: list[int] = []
        self._start = self._end = 0
        self._pending = ""
        self._space = ""
        self._begun = False

    def feed(self, ids: Sequence[int]) -> str:
        self._ids += [id for id in ids if id not in self._stop_ids]
        self._pending += self._decoded()
        text = self._space + (self._outside_calls() if self._may_call() else self._all())
        if not self._begun:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown

    def _decoded(self) -> str:
        """The text of the ids since the last whole character, decoded with those before them.

        Some tokenizers write an id otherwise at the beginning of a text.
        """
        before = self._decode(self._ids[self._start : self._end])
        whole = self._decode(self._ids[self._start :])
        if len(whole) <= len(before) or whole.endswith("\ufffd"):
            return ""
        self._start, self._end = self._end, len(self._ids)
        return whole[len(before) :]

    def _may_call(self) -> bool:
        return self._tools and not (self._begun and not self._form.opening)

    def _all(self) -> str:
        text, self._pending = self._pending, ""
        return text

    def _outside_calls(self) -> str:
        found = scan(self._pending, self._form, whole=False)
        self._pending = found.rest
        return found.shown
