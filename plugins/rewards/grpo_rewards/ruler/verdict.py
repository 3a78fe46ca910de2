"""Read the scores from a judge's answer, or say what is wrong with it."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 200_000
"""Characters of an answer that are read."""
_EXPLANATION = 500
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
_ATTEMPTS = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's verdict on one trajectory."""

    score: float
    explanation: str = ""


class UnusableAnswerError(Exception):
    """The answer has no complete set of scores; the message tells the judge what to fix."""


def read_verdicts(answer: str, ids: Sequence[str]) -> dict[str, Verdict]:
    """The verdict on each of ``ids``. Raises ``UnusableAnswerError``: nothing is made up or clipped.

    The scores may stand in prose or a code fence, as ``{"scores": [{"id", "score", …}]}``, as the
    list alone, as its entries alone, or as a mapping of ids to scores. If there are several, the
    last one counts: what stands before it was a draft.
    """
    sets: list[list[tuple[str, Any, str]]] = []
    loose: list[tuple[str, Any, str]] | None = None
    for value in _json_values(_THINKING.sub("", answer)[-LONGEST:]):
        if isinstance(value, Mapping) and "id" in value and "score" in value:
            if loose is None:
                sets.append(loose := [])
            loose.append(_entry(value["id"], value))
        elif (entries := _entries(value, ids)) is not None:
            sets.append(entries)
            loose = None
    if not sets:
        raise UnusableAnswerError("there is no JSON object with a list of scores in it")
    verdicts, problems = _check(sets[-1], ids)
    if problems:
        raise UnusableAnswerError("; ".join(problems[:8]))
    return verdicts


def _json_values(text: str) -> Iterator[Any]:
    """The outermost JSON objects and lists in ``text``, in their order."""
    decoder = json.JSONDecoder()
    mended = _TRAILING_COMMA.sub(r"\1", text)
    position, attempts = 0, 0
    while (start := _opening(mended, position)) >= 0 and attempts < _ATTEMPTS:
        attempts += 1
        try:
            value, position = decoder.raw_decode(mended, start)
        except (ValueError, RecursionError):
            position = start + 1
            continue
        yield value
    # Some models write Python: single quotes, None, True.
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        try:
            yield ast.literal_eval(text[start : end + 1])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return


def _opening(text: str, position: int) -> int:
    found = [index for index in (text.find("{", position), text.find("[", position)) if index >= 0]
    return min(found, default=-1)


def _entries(value: Any, ids: Sequence[str]) -> list[tuple[str, Any, str]] | None:
    """(id, score, explanation) of each entry; None if ``value`` is no set of scores at all."""
    if isinstance(value, Mapping):
        for key in ("scores", "trajectories", "results"):
            if isinstance(value.get(key), list | dict):
                return _entries(value[key], ids)
        if any(_identifier(key) in ids for key in value):
            return [_entry(key, item) for key, item in value.items()]
        return None
    if isinstance(value, list) and any(isinstance(item, Mapping) and "score" in item for item in value):
        return [
            _entry(item.get("id", item.get("trajectory_id")), item)
            if isinstance(item, Mapping)
            else ("", item, "")
            for item in value
        ]
    return None


def _entry(identifier: Any, item: Any) -> tuple[str, Any, str]:
    if not isinstance(item, Mapping):
        return _identifier(identifier), item, ""
    explanation = item.get("explanation", item.get("reason", ""))
    text = explanation if isinstance(explanation, str) else ""
    return _identifier(identifier), item.get("score"), _whole(" ".join(text.split())[:_EXPLANATION])


def _whole(text: str) -> str:
    """``text`` without halves of characters, which JSON can write and nothing can keep."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _identifier(value: Any) -> str:
    """``1``, ``"1"`` and ``"trajectory 1"`` name the same one."""
    return re.sub(r"^\s*(?:trajectory|id)?[\s_#:]*", "", str(value), flags=re.IGNORECASE).strip()


def _check(
    entries: Sequence[tuple[str, Any, str]], ids: Sequence[str]
) -> tuple[dict[str, Verdict], list[str]]:
    verdicts: dict[str, Verdict] = {}
    problems = []
    for identifier, score, explanation in entries:
        if identifier not in ids:
            problems.append(f'there is no trajectory with the id "{identifier[:40]}"')
        elif identifier in verdicts:
            problems.append(f'trajectory "{identifier}" has two scores')
        elif (number := _number(score)) is None:
            problems.append(f'the score of trajectory "{identifier}" is no number')
        elif not 0.0 <= number <= 1.0:
            problems.append(f'the score of trajectory "{identifier}" is not from 0 to 1')
        else:
            verdicts[identifier] = Verdict(number, explanation)
    named = {identifier for identifier, _, _ in entries}
    problems += [f'trajectory "{identifier}" has no score' for identifier in ids if identifier not in named]
    return verdicts, problems


def _number(score: Any) -> float | None:
    """A finite number, also one written as a text; None for anything else."""
    if isinstance(score, bool) or not isinstance(score, int | float | str):
        return None
    try:
        number = float(score)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
