"""Where the tool calls in a model's text begin and end, found by reading them as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")
_BARE = re.compile(r'\s*\{\s*"name"\s*:')
_BETWEEN_BARE = re.compile(r"[\s;]*")


@dataclass(frozen=True)
class CallForm:
    """How a model writes a call."""

    opening: str
    """What begins one. Empty: an answer that begins with ``{"name":`` is calls and nothing else."""
    closing: str
    middle: str | None = None
    """What stands between the name and the arguments, if they are not in one JSON value."""
    json: bool = True
    """Whether the arguments are JSON. If they are not, the first closing tag ends a call."""


class Call(NamedTuple):
    """A call in a text."""

    said: str
    """What it says, its tags left off."""
    written: str
    """All of it."""


@dataclass(frozen=True)
class Scan:
    """A text taken apart."""

    shown: str
    """What stands outside of calls."""
    calls: list[Call]
    rest: str
    """The end of the text, if it may still become a call or part of one."""


def scan(text: str, form: CallForm, *, whole: bool) -> Scan:
    """Take ``text`` apart, whose calls have ``form``; ``whole``: nothing comes after it.

    A call is one JSON value and ends behind it: a closing tag inside one of its strings is part of
    the string. What is no JSON ends with the first closing tag behind the place that is wrong.
    """
    if not form.opening:
        return _scan_bare(text, whole=whole)
    shown: list[str] = []
    calls: list[Call] = []
    position = 0
    while (found := text.find(form.opening, position)) >= 0:
        shown.append(text[position:found])
        end = _end_of_call(text, found + len(form.opening), form, whole)
        if end is None:
            return Scan("".join(shown), calls, text[found:])
        calls.append(Call(text[found + len(form.opening) : end[0]], text[found : end[1]].rstrip()))
        position = end[1]
    held = 0 if whole else _unfinished(text[position:], form.opening)
    shown.append(text[position : len(text) - held])
    return Scan("".join(shown), calls, text[len(text) - held :])


def _scan_bare(text: str, *, whole: bool) -> Scan:
    """An answer that is calls as a whole, or none."""
    if not whole:
        may_be = text.lstrip()[:1] in ("", "{")
        return Scan("", [], text) if may_be else Scan(text, [], "")
    calls: list[Call] = []
    position = _behind(_SPACE, text, 0)
    while _BARE.match(text, position):
        try:
            _, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = len(text)
        calls.append(Call(text[position:end], text[position:end]))
        position = _behind(_BETWEEN_BARE, text, end)
    if calls and position < len(text):
        rest = calls[-1].said + text[position:]  # what stands behind it makes it malformed
        calls[-1] = Call(rest, rest)
    return Scan("", calls, "") if calls else Scan(text, [], "")


def _end_of_call(text: str, start: int, form: CallForm, whole: bool) -> tuple[int, int] | None:
    """Where what a call says ends, and where the text goes on; None if that is not to be seen yet."""
    opening, closing = form.opening, form.closing
    wrong, end = start, None
    if form.json:
        begin, named = _beginning(text, start, form)
        try:
            end = _DECODER.raw_decode(text, begin)[1]
        except json.JSONDecodeError as problem:
            wrong = len(text) if problem.msg.startswith("Unterminated string") else problem.pos
        except (ValueError, RecursionError):  # a number or a nesting that Python does not read
            wrong = begin
        wrong = wrong if named else start
    if end is not None:
        behind = _behind(_SPACE, text, end)
        if text.startswith(closing, behind):
            return end, behind + len(closing)
        if text.startswith(opening, behind):  # the closing tag was forgotten
            return end, behind
        if closing.startswith(text[behind:]) or (not whole and opening.startswith(text[behind:])):
            return (end, len(text)) if whole else None
        wrong = end
    found = text.find(closing, wrong) if closing else -1
    if found >= 0:
        return found, found + len(closing)
    return (len(text), len(text)) if whole else None


def _beginning(text: str, start: int, form: CallForm) -> tuple[int, bool]:
    """Where a call's JSON begins, and whether its name stands before it as it should."""
    if form.middle is None:
        return _behind(_SPACE, text, start), True
    found = text.find(form.middle or "{", start)
    return (found + len(form.middle), True) if found >= 0 else (len(text), False)


def _behind(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position


def _unfinished(text: str, tag: str) -> int:
    """How many of ``text``'s last characters may be the beginning of ``tag``."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if tag.startswith(text[-n:])), 0)
