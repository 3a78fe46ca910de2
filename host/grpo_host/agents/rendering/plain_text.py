"""What people and tools write, encoded as text even if it spells a token with a meaning.

A tokenizer makes one id of ``<|im_end|>`` wherever it stands, also in a user's message, who could so
end it and speak as the system. Here the template's own markers stay special and all else is text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from grpo_sdk.backend import Tokenizer

_STAND_INS = [chr(code) for code in range(0xE000, 0xF8FF)]
"""Characters that Unicode leaves to private use: texts hardly ever hold one, and never all."""
_ZERO_WIDTH_SPACE = "\u200b"


@dataclass(frozen=True)
class Shielded:
    """Messages in whose contents nothing spells a special token, and what stands for what."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    originals: dict[str, str] = field(default_factory=dict)
    """Stand-in → the special token's text. Empty if the contents held none."""


class PlainText:
    """Encodes rendered conversations for ``tokenizer``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = sorted(_special_texts(tokenizer), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._special))) if self._special else None

    def shield(self, messages: list[dict[str, Any]], tools: Sequence[Any] = ()) -> Shielded:
        """``messages`` and ``tools`` with a stand-in for each special token that a text spells."""
        pattern, offered = self._pattern, list(tools) or None
        if pattern is None or not any(map(pattern.search, _texts([messages, offered]))):
            return Shielded(messages, offered)
        everything = "".join(_texts([messages, offered]))
        first, last = [c for c in _STAND_INS if c not in everything][:2]
        stand_ins = {text: f"{first}{index}{last}" for index, text in enumerate(self._special)}

        def replaced(text: str) -> str:
            return pattern.sub(lambda found: stand_ins[found.group()], text)

        return Shielded(
            _mapped(messages, replaced),
            _mapped(offered, replaced),
            {stand_in: text for text, stand_in in stand_ins.items()},
        )

    def encode(self, rendered: str, shielded: Shielded) -> list[int]:
        """The ids of what a template made of ``shielded.messages``."""
        if not shielded.originals or self._pattern is None:
            return self._encode(rendered)
        if self._in_parts(rendered) != self._encode(rendered):
            # A tokenizer that looks over the edge of a special token, for which parts are not the
            # whole: its users' texts keep their look and lose their meaning.
            return self._encode(_replaced(rendered, shielded.originals, _ZERO_WIDTH_SPACE))
        return self._in_parts(rendered, shielded.originals)

    def encode_text(self, text: str) -> list[int]:
        """The ids of ``text``, none of them special."""
        if self._pattern is None or not self._pattern.search(text):
            return self._encode(text)
        return self._encode_plain(text)

    def encode_markers(self, text: str) -> list[int]:
        """The ids of what a template writes of its own."""
        return self._encode(text)

    def _in_parts(self, rendered: str, originals: dict[str, str] | None = None) -> list[int]:
        """The special tokens of ``rendered`` and the texts between them, each encoded by itself."""
        assert self._pattern is not None
        ids: list[int] = []
        end = 0
        for found in self._pattern.finditer(rendered):
            ids += self._encode_plain(_replaced(rendered[end : found.start()], originals or {}))
            ids += self._encode(found.group())
            end = found.end()
        return ids + self._encode_plain(_replaced(rendered[end:], originals or {}))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _encode_plain(self, text: str) -> list[int]:
        return list(self._blind.encode(text, add_special_tokens=False)) if text else []

    @cached_property
    def _blind(self) -> Any:
        """A copy of the tokenizer that sees no special tokens.

        A copy, since this is a setting of the whole tokenizer, which others use in other threads.
        """
        blind: Any = copy.deepcopy(self._tokenizer)
        blind.split_special_tokens = True
        return blind


def _replaced(text: str, originals: dict[str, str], break_with: str = "") -> str:
    for stand_in, original in originals.items():
        text = text.replace(stand_in, f"{original[:1]}{break_with}{original[1:]}")
    return text


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(str(key)): _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list) else value


def _special_texts(tokenizer: Any) -> Sequence[str]:
    return added_texts(tokenizer, special=True)


def added_texts(tokenizer: Any, *, special: bool = False) -> Sequence[str]:
    """The tokens that were added to the vocabulary as a whole; with ``special`` those alone that are."""
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is not None:
        return [token.content for token in added.values() if (token.special or not special) and token.content]
    return [text for text in getattr(tokenizer, "all_special_tokens", ()) if text]
