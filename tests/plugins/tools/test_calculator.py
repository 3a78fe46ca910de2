from __future__ import annotations

import time
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_sdk.testing import ToolContract
from grpo_sdk.tools import ToolCallError, ToolLike
from grpo_tools.calculator import calculate, calculator_tool


class TestCalculator(ToolContract):
    arguments: ClassVar = {"expression": "12 * (3 + 4)"}
    invalid_arguments = ({"expression": "1 / 0"}, {"expression": "open('x')"}, {"expression": ""}, {})

    def make(self) -> ToolLike:
        return calculator_tool()


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12 * (3 + 4)", "84"),
        ("7 / 2", "3.5"),
        ("8 / 2", "4"),
        ("0.1 + 0.2", "0.3"),
        ("7 // 2", "3"),
        ("7 % 4", "3"),
        ("-2 ** 2", "-4"),
        ("2 ^ 10", "1024"),
        ("sqrt(2)", "1.414213562"),
        ("round(2.567, 2)", "2.57"),
        ("round(2.5)", "2"),
        ("min(3, 1, 2) + max(1, 5)", "6"),
        ("1,200 / 4", "300"),
        ("max(1,200)", "200"),
        ("3 \u00d7 4 \u00f7 2 \u2212 1", "5"),
        ("12 x 7 = ?", "84"),
        ("1e3", "1000"),
        ("10 ** 20", "100000000000000000000"),
    ],
)
def test_arithmetic_is_right(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "the expression is empty"),
        ("1 / 0", "division by zero in 1 / 0"),
        ("5 % 0", "division by zero"),
        ("9 ** 9 ** 9", "too large"),
        ("1e99 * 1e99", "too large"),
        ("1e999", "too large"),
        ("10 ** -2000", "too large"),
        ("sqrt(-1)", "no real root"),
        ("(-8) ** 0.5", "no real root"),
        ("x + 1", "cannot compute x; use numbers"),
        ("__import__('os')", "cannot compute import"),
        ("(1).real", "cannot compute real"),
        ("2 +", "2 + is not an arithmetic expression"),
        ("[1]", "cannot compute"),
        ("'a' * 3", "cannot compute a"),
        ("'1' * 3", "'1' is not a number"),
        ("True", "cannot compute True"),
        ("1j", "cannot compute j"),
        ("min(3)", "min got 1 arguments"),
        ("round(1, 1000)", "whole number of digits"),
        ("1" * 300, "longer than 200 characters"),
        ("(" * 150 + "1" + ")" * 40, "not an arithmetic expression"),
        ("1 < 2", "cannot compute"),
    ],
)
def test_what_cannot_be_computed_is_explained(expression, message):
    with pytest.raises(ToolCallError) as raised:
        calculate(expression)
    assert message in str(raised.value)


@given(st.text(alphabet="0123456789+-*/%^(). ,eminaxroudsqt", max_size=200))
def test_any_text_gets_an_answer_or_an_explanation_at_once(text):
    started = time.thread_time()
    try:
        answer = calculate(text)
    except ToolCallError as problem:
        answer = str(problem)
    assert answer
    assert time.thread_time() - started < 1.0


@given(st.integers(-999, 999), st.integers(-999, 999), st.integers(1, 99))
def test_it_agrees_with_python(a, b, c):
    assert float(calculate(f"({a} + {b}) * {c} - {a} / {c}")) == pytest.approx((a + b) * c - a / c)
