"""How a model writes a message of tool calls, as constants around the arguments: what a grammar needs of it.

Found by letting the renderer write one call and two, so that it holds for every format whose arguments are
JSON: tags around each call, a list of calls, a name before its arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from grpo_host.agents.rendering import Renderer
from grpo_host.agents.rendering.native_tools import KEY, NAME, TOOL, VALUE
from grpo_host.agents.rendering.plain_text import added_texts
from grpo_sdk.backend import Tokenizer
from grpo_sdk.errors import CapabilityError
from grpo_sdk.messages import ToolCall, assistant, tool_call

_ARGUMENTS = json.dumps({KEY: VALUE})
_IDS = ("probe1234", "probe5678", "probe9012")
_ID = "\0"
"""Stands in constants for an id of nine letters and digits, as Mistral's models write them."""
_OPENING = re.compile(r"\s*(\[?[^\s{\[]+)")

Format = dict[str, Any]
"""A part of a structural tag."""


class Around(NamedTuple):
    """What stands around a tool's name."""

    before: str
    """After the arguments of the call before, if there is one."""
    behind: str
    """Up to the arguments."""


@dataclass(frozen=True)
class CallSyntax:
    """The constants of a message of calls."""

    first: Around
    further: Around | None
    """None: a message has one call."""
    last: str
    """Behind the last arguments."""
    special: dict[str, int]
    """The tokens among them that stand for a text as a whole."""

    @property
    def opening(self) -> str:
        """What begins a call within a text. Empty: an answer is calls as a whole, or none."""
        found = _OPENING.match(self.first.before)
        return found[1] if found else ""

    def calls(self, tools: dict[str, Format], *, most: int | None = None) -> Format:
        """A message of one or more calls, at most ``most`` (1, or None), of ``tools``: name → arguments."""
        parts = [self._one_of(tools, self.first)]
        if most != 1 and self.further is not None:
            parts.append({"type": "star", "content": self._one_of(tools, self.further)})
        return sequence([*parts, *self._constant(self.last)])

    def _one_of(self, tools: dict[str, Format], around: Around) -> Format:
        calls = [
            sequence([*self._constant(f"{around.before}{_inside_quotes(name)}{around.behind}"), arguments])
            for name, arguments in tools.items()
        ]
        return calls[0] if len(calls) == 1 else {"type": "or", "elements": calls}

    def _constant(self, text: str) -> Iterator[Format]:
        """``text``, its special tokens as such: other tokens that spell them are no marks of a call."""
        pattern = "|".join(map(re.escape, [*sorted(self.special, key=len, reverse=True), _ID]))
        for part in re.split(f"({pattern})", text):
            if part in self.special:
                yield {"type": "token", "token": self.special[part]}
            elif part == _ID:
                yield {"type": "regex", "pattern": "[a-zA-Z0-9]{9}"}
            elif part:
                yield {"type": "const_string", "value": part}

    def example(self, count: int) -> str:
        """``count`` calls of the probe tool."""
        arounds = [self.first, *[self.further] * (count - 1)]
        calls = (f"{around.before}{NAME}{around.behind}{_ARGUMENTS}" for around in arounds if around)
        return ("".join(calls) + self.last).replace(_ID, _IDS[0])


def sequence(parts: list[Format]) -> Format:
    """``parts`` one after another."""
    return parts[0] if len(parts) == 1 else {"type": "sequence", "elements": parts}


_known: WeakKeyDictionary[Renderer, CallSyntax] = WeakKeyDictionary()


def call_syntax(renderer: Renderer, tokenizer: Tokenizer) -> CallSyntax:
    """How the model of ``renderer`` writes calls.

    Raises ``CapabilityError`` if its arguments are no JSON.
    """
    if renderer not in _known:
        _known[renderer] = _find(renderer, tokenizer)
    return _known[renderer]


def _find(renderer: Renderer, tokenizer: Tokenizer) -> CallSyntax:
    def written(*ids: str) -> str:
        return _written(renderer, tokenizer, ids)

    one, both = written(_IDS[0]), written(_IDS[0], _IDS[1])
    parts = _taken_apart(_without_ids(one, written(_IDS[2])))
    first = _around(parts[0])
    if first is None or len(parts) != 2:
        raise _cannot(one, "name and arguments are not found as JSON in it")
    special = {text: id for text in added_texts(tokenizer) if text in one and (id := _id(tokenizer, text))}
    syntax = CallSyntax(first, None, parts[1], special)
    if not _reads(renderer, tokenizer, syntax, 1):
        raise _cannot(one, "it is not read back")
    two = _taken_apart(_without_ids(both, written(_IDS[2], _IDS[0])))
    if len(two) == 3 and [two[0], two[2]] == parts and (further := _around(two[1])):
        several = replace(syntax, further=further)
        if _reads(renderer, tokenizer, several, 2):
            return several
    return syntax


def _without_ids(text: str, other: str) -> str:
    """``text`` with a stand-in for each word of nine letters that is another one in ``other``."""
    words, others = (re.split(r"([a-zA-Z0-9]+)", each) for each in (text, other))
    if len(words) != len(others):
        return text
    pairs = zip(words, others, strict=True)
    return "".join(_ID if a != b and len(a) == len(b) == 9 else a for a, b in pairs)


def _written(renderer: Renderer, tokenizer: Tokenizer, call_ids: tuple[str, ...]) -> str:
    try:
        ids = renderer.completion(assistant("", [tool_call(NAME, _ARGUMENTS, id) for id in call_ids]))
    except Exception:  # a template that takes no such message fails in ways of its own
        return ""
    while ids and ids[-1] in renderer.stop_ids:
        ids = ids[:-1]
    return tokenizer.decode(ids, skip_special_tokens=False)


def _taken_apart(text: str) -> list[str]:
    """What stands before, between and behind the probe's arguments in ``text``."""
    parts, begin, at = [], 0, text.find("{")
    while at >= 0:
        try:
            said, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            said, end = None, at + 1
        if said == {KEY: VALUE}:
            parts.append(text[begin:at])
            begin = end
        at = text.find("{", end if said == {KEY: VALUE} else at + 1)
    return [*parts, text[begin:]]


def _around(text: str) -> Around | None:
    before, found, behind = text.partition(NAME)
    return Around(before, behind) if found and NAME not in behind else None


def _reads(renderer: Renderer, tokenizer: Tokenizer, syntax: CallSyntax, count: int) -> bool:
    ids = tokenizer.encode(syntax.example(count), add_special_tokens=False)
    text, calls = renderer.parse(ids, [TOOL])
    return not text and [_said(call) for call in calls] == [(NAME, {KEY: VALUE})] * count


def _said(call: ToolCall) -> tuple[str, Any]:
    function = call["function"]
    try:
        return function["name"], json.loads(function["arguments"])
    except ValueError:
        return function["name"], None


def _id(tokenizer: Tokenizer, text: str) -> int | None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids[0] if len(ids) == 1 else None


def _inside_quotes(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _cannot(written: str, why: str) -> CapabilityError:
    shown = f"writes {written!r:.200} for a tool call, and {why}" if written else "writes no tool call"
    return CapabilityError(
        f"tool calls cannot be constrained in this model's format: its chat template {shown}. Leave "
        "tool_choice at auto, or set model.tool_format: text"
    )
