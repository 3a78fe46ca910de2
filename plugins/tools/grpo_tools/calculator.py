"""Arithmetic on text. Walks the syntax tree: nothing is ever evaluated as Python.

Covered: names, attributes, subscripts, calls of anything but four functions, and strings are
refused; length, depth, powers and the size of every intermediate result are limited.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from grpo_sdk.tools import ToolCallError

Number: TypeAlias = int | float

LONGEST = 200
"""Characters of an expression."""
LARGEST = 1e100
"""Magnitude of any result on the way."""

_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})  # noqa: RUF001
_TIMES = re.compile(r"(?<=[\d)])\s+[xX]\s+(?=[\d(])")
_WORD = re.compile(r"[^\W\d_]+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def calculate(expression: str) -> str:
    """The value of ``expression`` as text. Raises ``ToolCallError`` with a message for the model."""
    text = _plain(expression)
    if not text:
        raise ToolCallError("the expression is empty; give one such as 12 * (3 + 4)")
    if len(text) > LONGEST:
        raise ToolCallError(f"the expression is longer than {LONGEST} characters")
    # Python's parser would warn about "2if", and complain about other words in its own terms.
    for word in _WORD.findall(text):
        if word not in {*_FUNCTIONS, "e", "E"}:
            raise _cannot(word)
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        raise ToolCallError(f"division by zero in {text}") from None
    except OverflowError:
        raise _too_large() from None
    # ast.parse raises MemoryError and RecursionError for deep nesting, ValueError for null bytes.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolCallError(f"{text} is not an arithmetic expression") from None
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.10g}"


def calculator_tool() -> Callable[[str], Awaitable[str]]:
    """A calculator: + - * / // % **, parentheses, sqrt, round, min, max."""

    # Every expression is small, so there is no need for a thread: a coroutine.
    async def calculator(expression: str) -> str:
        """Compute an arithmetic expression, e.g. 12 * (3 + 4). Also: sqrt, round, min, max.

        Args:
            expression: The expression to compute.
        """
        return calculate(expression)

    return calculator


def _plain(expression: str) -> str:
    text = expression.translate(_SPELLINGS).replace("^", "**").rstrip("=? \n").strip()
    text = _TIMES.sub("*", text)
    # In "max(1,200)" the comma separates; if no function is called it groups thousands.
    return text if any(map(str.isalpha, text)) else _THOUSANDS.sub("", text)


def _power(base: Number, exponent: Number) -> Number:
    if base and abs(exponent) * max(1.0, abs(math.log10(abs(base)))) > 1000:
        raise _too_large()
    result = base**exponent
    if isinstance(result, complex):
        raise ToolCallError("a negative number has no real root")
    return _number(result)


def _sqrt(value: Number) -> Number:
    if value < 0:
        raise ToolCallError("a negative number has no real root")
    return math.sqrt(value)


def _round(value: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > 100:
        raise ToolCallError("round takes a number and a whole number of digits")
    return round(value, digits)


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "sqrt": _sqrt,
    "round": _round,
    "min": min,
    "max": max,
}
_ARGUMENTS = {"sqrt": (1, 1), "round": (1, 2), "min": (2, LONGEST), "max": (2, LONGEST)}


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=value):
            return _bounded(_number(value))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATORS:
            return _bounded(_OPERATORS[type(sign)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            least, most = _ARGUMENTS[name]
            if not least <= len(arguments) <= most:
                raise ToolCallError(f"{name} got {len(arguments)} arguments")
            return _bounded(_FUNCTIONS[name](*map(_value, arguments)))
    raise _cannot(ast.unparse(node))


def _number(value: object) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ToolCallError(f"{value!r} is not a number")
    return value


def _bounded(value: Number) -> Number:
    if not abs(value) <= LARGEST:  # also for nan
        raise _too_large()
    return value


def _cannot(what: str) -> ToolCallError:
    return ToolCallError(
        f"cannot compute {what}; use numbers, + - * / // % **, parentheses, sqrt, round, min and max"
    )


def _too_large() -> ToolCallError:
    return ToolCallError("the result is too large")
