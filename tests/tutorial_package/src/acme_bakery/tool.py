"""The tool: a price list that the model may ask."""

from __future__ import annotations

from collections.abc import Callable

from grpo_sdk import ToolCallError

PRICES = {"roll": 40, "bun": 60, "pretzel": 90, "croissant": 150}


def price_of() -> Callable[[str], str]:
    """Make the tool."""

    def price_of(item: str) -> str:
        """Look up what one of an item costs, in cents.

        Args:
            item: Its name, such as roll.
        """
        if item not in PRICES:
            raise ToolCallError(f"there is no {item}; there are: {', '.join(PRICES)}")
        return str(PRICES[item])

    return price_of
