"""Where the tool calls in a model's text begin and end, found by reading them as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Scan:
    """A text taken apart."""

    shown: str
    """What stands outside of calls."""
    calls: list[str]
    """What each call says, its tags left off."""
    rest: str
    """The end of the text, if it may still become a call or part of one."""


def scan(text: str, opening: str, closing: str, *, whole: bool) -> Scan:
    """Take ``text`` apart, in which ``opening`` begins a call; ``whole``: nothing comes after it.

    A call is one JSON value and ends behind it: a closing tag inside one of its strings is part of
    the string. What is no JSON ends with the first closing tag behind the place that is wrong.
    """
    shown: list[str] = []
    calls: list[str] = []
    position = 0
    while (found := text.find(opening, position)) >= 0:
        shown.append(text[position:found])
        end = _end_of_call(text, found + len(opening), opening, closing, whole)
        if end is None:
            return Scan("".join(shown), calls, text[found:])
        calls.append(text[found + len(opening) : end[0]])
        position = end[1]
    held = 0 if whole else _unfinished(text[position:], opening)
    shown.append(text[position : len(text) - held])
    return Scan("".join(shown), calls, text[len(text) - held :])


def _end_of_call(text: str, start: int, opening: str, closing: str, whole: bool) -> tuple[int, int] | None:
    """Where what a call says ends, and where the text goes on; None if that is not to be seen yet."""
    begin = _behind_space(text, start)
    try:
        _, end = _DECODER.raw_decode(text, begin)
    except json.JSONDecodeError as problem:
        wrong = len(text) if problem.msg.startswith("Unterminated string") else problem.pos
    except (ValueError, RecursionError):  # a number or a nesting that Python does not read
        wrong = begin
    else:
        behind = _behind_space(text, end)
        if text.startswith(closing, behind):
            return end, behind + len(closing)
        if text.startswith(opening, behind):  # the closing tag was forgotten
            return end, behind
        if closing.startswith(text[behind:]) or (not whole and opening.startswith(text[behind:])):
            return (end, len(text)) if whole else None
        wrong = end
    found = text.find(closing, wrong)
    if found >= 0:
        return found, found + len(closing)
    return (len(text), len(text)) if whole else None


def _behind_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _unfinished(text: str, tag: str) -> int:
    """How many of ``text``'s last characters may be the beginning of ``tag``."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if tag.startswith(text[-n:])), 0)
