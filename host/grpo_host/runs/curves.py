"""The picture of a run: reward, its parts and spread, success, and what was measured on other tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = ("before", "warm_start", "after")
"""Measurements that are named in the picture."""
LOW, HIGH = "rollouts/reward_p10", "rollouts/reward_p90"


def draw(lines: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw metrics.jsonl's ``lines`` and ``evaluations`` as ``Run`` gives them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps = [line["step"] for line in lines]
    if any(line.get(LOW) is not None for line in lines):
        low, high = _of(lines, LOW), _of(lines, HIGH)
        axes.fill_between(steps, low, high, alpha=0.12, label="eight tenths of the episodes")
    axes.plot(steps, _of(lines, "reward"), label="reward", linewidth=2.5)
    parts = sorted({name for line in lines for name in line if _is_part(name)})
    for name in parts if len(parts) > 1 else []:
        axes.plot(steps, _of(lines, name), label=name.split("/")[1], linewidth=1, alpha=0.6)
    if any(line.get("rollouts/success") is not None for line in lines):
        axes.plot(steps, _of(lines, "rollouts/success"), label="success", linewidth=1.5, linestyle="--")
    for split in dict.fromkeys(item["split"] for item in evaluations):
        points = [item for item in evaluations if item["split"] == split and item["reward"] is not None]
        below = [_distance(item, "low") for item in points]
        above = [_distance(item, "high") for item in points]
        at, rewards = [item["step"] or 0 for item in points], [item["reward"] for item in points]
        axes.errorbar(at, rewards, yerr=[below, above], fmt="o", capsize=4, label=f"{split} reward, 95 %")
        for item, place in zip(points, at, strict=True):
            if item["label"] in NAMED:  # two stand at step 0
                words = item["label"].replace("_", " ")
                offset = (8, 0) if not place else (-8, 0)
                axes.annotate(
                    words,
                    (place, item["reward"]),
                    offset,
                    textcoords="offset points",
                    fontsize="small",
                    ha="left" if not place else "right",
                    va="center",
                )
    axes.set_xlabel("training step")
    axes.set_ylabel("mean of sampled episodes")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _is_part(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean")


def _of(lines: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float("nan") if line.get(name) is None else line[name] for line in lines]


def _distance(item: Mapping[str, Any], end: str) -> float:
    return 0.0 if item[end] is None else abs(item["reward"] - item[end])
