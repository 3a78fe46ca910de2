"""Two evaluations of the same tasks, before and after or of two runs, paired task by task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpo_host.rollouts.evaluation import Interval
from grpo_host.viewer.api import reading
from grpo_sdk.errors import RunError

if TYPE_CHECKING:
    from grpo_host.viewer.viewed import Viewed

DEFAULTS = ("after", "evaluation", "warm_start", "before")
"""Which evaluation of a run is meant if none is named: the last that it has of these."""


def compare(viewed: Viewed, a: str, b: str) -> dict[str, Any]:
    """The difference b - a of the tasks that both have. Raises ``RunError``.

    Each names a run, and after a colon an evaluation or a step of it; a step's episodes are averaged.
    Raises ``BusyError`` until all of both are indexed.
    """
    one, other = _side(viewed, a), _side(viewed, b)
    tasks = [
        {"task": task, "a": one[task], "b": found, "difference": found["reward"] - one[task]["reward"]}
        for task, found in other.items()
        if task in one
    ]
    tasks.sort(key=lambda item: -abs(item["difference"]))
    mean = Interval.of([item["difference"] for item in tasks])
    return {
        "paired": {
            "n": len(tasks),
            "difference": mean.mean if mean else None,
            "low": mean.low if mean and len(tasks) > 1 else None,
            "high": mean.high if mean and len(tasks) > 1 else None,
        },
        "tasks": tasks,
    }


def _side(viewed: Viewed, asked: str) -> dict[str, dict[str, Any]]:
    """By task: the trajectory (the first of several), the mean reward and the share of successes."""
    run_id, _, where = asked.partition(":")
    split, _, label = where.rpartition("/")
    item = viewed.find(run_id)
    with reading(item, whole=True) as database:
        if not label:
            known = {row[0] for row in database.execute("SELECT DISTINCT label FROM trajectories")}
            label = next((name for name in DEFAULTS if name in known), "")
        rows = database.execute(
            "SELECT task, min(tid) AS id, avg(reward) AS reward, avg(success) AS success FROM trajectories "
            "WHERE label = ? AND (? = '' OR split = ?) AND reward IS NOT NULL GROUP BY task",
            (label, split, split),
        ).fetchall()
    if not rows:
        raise RunError(f"the run {run_id} has no scored episodes of {where or 'an evaluation'}")
    return {row["task"]: {name: row[name] for name in ("id", "reward", "success")} for row in rows}
