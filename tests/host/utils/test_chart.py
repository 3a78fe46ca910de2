from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from grpo_host.utils.chart import BLOCKS, sparkline, terminal_chart

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=200)


def test_a_sparkline_rises_with_its_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == BLOCKS
    assert sparkline([1.0, 0.0, 1.0]) == "█▁█"
    assert sparkline([0.5, 0.5]) == "▁▁"
    assert sparkline([]) == ""


@given(VALUES)
def test_a_sparkline_has_a_block_a_value(values):
    assert len(sparkline(values)) == len(values)


def test_a_chart_shows_its_range_and_steps():
    lines = terminal_chart([0.0, 0.25, 1.0], height=4).splitlines()
    assert lines == [
        "  1.000 │  █",
        "        │  █",
        "        │  █",
        "  0.000 │ ██",
        "        └─── step 3",
    ]
    assert terminal_chart([]) == ""


@given(VALUES.filter(bool), st.integers(2, 10), st.integers(1, 60))
def test_a_chart_keeps_its_size(values, height, width):
    lines = terminal_chart(values, height=height, width=width).splitlines()
    assert len(lines) == height + 1
    columns = min(len(values), width)
    assert all(len(line.partition("│")[2]) == columns for line in lines[:-1])
    assert lines[-1].endswith(f"step {len(values)}")


def test_many_values_are_shown_by_their_means():
    top = terminal_chart([0.0] * 500 + [1.0] * 500, width=10, height=2).splitlines()[0]
    assert top == "  1.000 │     █████"
