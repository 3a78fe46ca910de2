"""What tells the code of one tool from that of another."""

from __future__ import annotations

import functools

import pytest
from langchain_core.tools import StructuredTool

from grpo_host.cache.tools import origin_of


class Shop:
    def __init__(self, name):
        self.name = name

    def look_up(self, order: str) -> str:
        """Look up an order."""
        return f"{self.name}: {order}"


def closing_over(thing):
    def look_up(order: str) -> str:
        """Look up an order."""
        return f"{thing}: {order}"

    return look_up


def decorated(thing):
    def plain(order: str) -> str:
        """Look up an order."""
        return order

    @functools.wraps(plain)
    def wrapped(order: str) -> str:
        return f"{thing}: {plain(order)}"

    return wrapped


def test_a_plain_functions_origin_is_the_same_wherever_it_is_bound():
    assert origin_of(closing_over("A")) == origin_of(closing_over("A")) != ""
    assert origin_of(closing_over("A")) != origin_of(closing_over("B"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Shop("A").look_up,
        lambda: StructuredTool.from_function(Shop("A").look_up),
        lambda: closing_over(Shop("A")),
        lambda: decorated("A"),
    ],
    ids=["method", "structured tool of a method", "closure over an object", "decorated"],
)
def test_what_holds_an_object_has_an_origin_of_its_own(make):
    assert len({origin_of(make()) for _ in range(20)}) == 20


def test_a_tool_may_close_over_what_is_made_later():
    def look_up(order: str) -> str:
        """Look up an order."""
        return f"{shop}: {order}"

    assert origin_of(look_up)
    shop = "A"
