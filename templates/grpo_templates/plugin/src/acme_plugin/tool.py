"""A tool: a function that the model may call."""

from __future__ import annotations

from collections.abc import Callable

from grpo_sdk import ToolCallError


def add_numbers(*, largest: int = 1_000_000) -> Callable[[int, int], str]:
    """Make the tool; `largest`, the largest number that it takes, is an option of agent.yaml."""

    # The model knows no more of the tool than its name, type hints and docstring.
    def add_numbers(first: int, second: int) -> str:
        """Add two whole numbers.

        Args:
            first: The number that comes first.
            second: The number that is added to it.
        """
        if max(abs(first), abs(second)) > largest:
            # The model reads this, and may call again.
            raise ToolCallError(f"give numbers from -{largest} to {largest}")
        return str(first + second)

    return add_numbers
