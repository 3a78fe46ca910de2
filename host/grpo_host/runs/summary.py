"""How a run stands, as lines for a terminal of any width, without colour."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grpo_host.utils.chart import sparkline, terminal_chart

if TYPE_CHECKING:
    from grpo_host.runs.run import Run

SHOWN = (
    ("success", "rollouts/success", "{:.0%}"),
    ("entropy", "entropy", "{:.3f}"),
    ("tokens a reply", "rollouts/tokens_per_turn", "{:.0f}"),
    ("replies cut", "rollouts/cut", "{:.0%}"),
    ("groups alike", "frac_reward_zero_std", "{:.0%}"),
    ("tool errors", "rollouts/tool_errors", "{:.0f}"),
    ("tokens/s", "rollouts/tokens_per_second", "{:.0f}"),
)
"""Beside the reward: a name for people, the metric, its format."""
ENDING = "all steps are done: it measures and saves"
CHART_MARGIN = 9
"""Columns of a chart's range."""


def summary(run: Run, width: int) -> list[str]:
    """Lines of at most ``width`` columns."""
    width = max(20, width)
    text = [f"{run.name} {run.path.name}", *_state(run), "", *_curve(run, width), *_measured(run)]
    text += [f"{item.severity}: {item.message}" for item in run.diagnosis()]
    return [line for long in text for line in _wrapped(long, width)]


def _state(run: Run) -> Iterator[str]:
    lines = run.metric_lines()
    step = lines[-1]["step"] if lines else 0
    yield f"{run.state}, step {step} of {run.planned_steps}" if run.planned_steps else run.state
    left = run.seconds_left
    if left is not None:
        yield f"about {left:.0f} s left" if left < 90 else f"about {left / 60:.0f} min left"
    elif run.is_ending:
        yield ENDING


def _curve(run: Run, width: int) -> Iterator[str]:
    lines = run.metric_lines()
    rewards = [line["reward"] for line in lines if line.get("reward") is not None]
    if rewards:
        yield from terminal_chart(rewards, height=5, width=min(60, width - CHART_MARGIN)).splitlines()
        yield f"reward {rewards[-1]:.3f}"
    parts = sorted({name for line in lines for name in line if _is_part(name)})
    shown = [(name.split("/")[1], name, "{:.3f}") for name in parts] if len(parts) > 1 else []
    for title, name, form in (*shown, *SHOWN):
        values = [line[name] for line in lines if line.get(name) is not None]
        if values:
            yield f"{title:<15}{form.format(values[-1]):>8} {sparkline(values[-max(4, width - 25) :][-30:])}"


def _is_part(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean")


def _measured(run: Run) -> Iterator[str]:
    for item in run.evaluations():
        if item["reward"] is not None:
            yield f"{item['label']}: {_interval(item)}"


def _interval(item: dict[str, Any]) -> str:
    said = f"{item['split']} reward {item['reward']:.3f}"
    if item["low"] is not None:
        said += f" [{item['low']:.3f}, {item['high']:.3f}]"
    return said if item["success"] is None else f"{said}, success {item['success']:.0%}"


def _wrapped(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    return textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
