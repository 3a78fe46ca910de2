"""What the contract tests share. Plain exceptions, so that they also check under ``python -O``."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, cast
from unittest import SkipTest

from grpo_sdk.tools import is_described

T = TypeVar("T")


def require(condition: object, message: str) -> None:
    """Fail the test with ``message`` unless ``condition`` holds."""
    if not condition:
        raise AssertionError(message)


async def given(value: Any, method: str, kind: type[T]) -> T:
    """What ``value``, the coroutine of a plugin's ``method``, gives. Fails if it is none, or gives another
    kind."""
    require(inspect.isawaitable(value), f'{method}() is a plain function: write "async def {method}"')
    found = await value
    wanted = (
        "nothing" if kind is type(None) else f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}"
    )
    require(isinstance(found, kind), f"{method}() must return {wanted}, not {type(found).__name__}")
    return cast("T", found)


def close_plainly(close: Callable[[], Any]) -> None:
    """Call a reward's ``close`` as the host does. Fails if it is a coroutine."""
    closed = close()
    if inspect.iscoroutine(closed):
        closed.close()
        raise AssertionError('close() is a coroutine, for which nobody waits: write "def close"')


def skip(reason: str) -> NoReturn:
    """Skip the test, visibly."""
    raise SkipTest(reason)


def require_description(function: Mapping[str, Any]) -> None:
    """Fail unless the schema of a tool's ``function`` says what it does."""
    require(
        is_described(function),
        f"the tool {function['name']} has no description: write what it does as the function's docstring",
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
