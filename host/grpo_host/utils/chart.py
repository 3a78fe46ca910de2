"""Curves in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """Draw ``values`` as a row of blocks."""
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def terminal_chart(values: Sequence[float], *, height: int = 8, width: int = 60) -> str:
    """Mean reward by step as a small chart with its range on the left."""
    if not values:
        return ""
    shown = _resample(values, width)
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    levels = [(value - low) / span * height for value in shown]
    rows = []
    for row in reversed(range(height)):
        label = f"{high:7.3f}" if row == height - 1 else f"{low:7.3f}" if row == 0 else " " * 7
        cells = "".join(_cell(level - row) for level in levels)
        rows.append(f"{label} │{cells}")
    rows.append(f"{' ' * 7} └{'─' * len(shown)} step {len(values)}")
    return "\n".join(rows)


def _cell(filled: float) -> str:
    if filled >= 1:
        return BLOCKS[-1]
    return BLOCKS[int(filled * len(BLOCKS))] if filled > 0 else " "


def _resample(values: Sequence[float], width: int) -> list[float]:
    """At most ``width`` means of consecutive values."""
    if len(values) <= width:
        return list(values)
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
