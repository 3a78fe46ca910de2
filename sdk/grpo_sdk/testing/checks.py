"""What the contract tests share. Plain exceptions, so that they also check under ``python -O``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn
from unittest import SkipTest


def require(condition: object, message: str) -> None:
    """Fail the test with ``message`` unless ``condition`` holds."""
    if not condition:
        raise AssertionError(message)


def skip(reason: str) -> NoReturn:
    """Skip the test, visibly."""
    raise SkipTest(reason)


def require_description(function: Mapping[str, Any]) -> None:
    """Fail unless the schema of a tool's ``function`` says what it does."""
    name, said = function["name"], function.get("description", "").strip()
    # A function without a docstring is described by its name, with blanks.
    require(
        said.replace(" ", "_") not in ("", name),
        f"the tool {name} has no description: write what it does as the function's docstring",
    )


def require_json(value: Any, what: str) -> None:
    """Fail unless ``value`` survives a round trip through JSON; ``what`` names it."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError) as problem:
        raise AssertionError(f"{what} cannot be written as JSON: {problem}") from None
    require(
        same,
        f"{what} changes in a round trip through JSON: {value!r:.300}. "
        "Use dicts with string keys, lists (no tuples), strings, numbers, booleans and None.",
    )
