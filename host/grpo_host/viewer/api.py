"""Answer the viewer's API, as plain data."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from grpo_host.runs.run import Run, differing_settings
from grpo_host.viewer.search import Wanted, find, listed, one
from grpo_host.viewer.viewed import MOMENT
from grpo_sdk.errors import BusyError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from grpo_host.viewer.viewed import Viewed, ViewedRun

INDEXING = "the trajectories are being indexed; ask again in a moment"
SOON = 0.5
"""Seconds that a run's curves wait for its index: most are made by then."""
TOOLS = 8
"""So many tools have curves, those that are called most. What hardly was called and never worked has none: a
policy invents names."""
NOT_SERIES = ("step", "time")
"""Of a line of metrics: when, and not how much."""


def list_runs(viewed: Viewed) -> dict[str, Any]:
    """A table of runs."""
    found = viewed.all()
    differing = differing_settings([item.run for item in found.values()])
    return {
        "runs": [
            {**_summary(run_id, item.run), "settings": settings}
            for (run_id, item), settings in zip(found.items(), differing, strict=True)
        ]
    }


def _summary(run_id: str, run: Run) -> dict[str, Any]:
    config, lines = run.config, run.metric_lines()
    measured = {item["label"]: item for item in run.evaluations()}
    return {
        "id": run_id,
        "path": str(run.path),
        "name": run.name,
        "kind": "evaluation" if run.is_evaluation else "training",
        "state": run.state,
        "started": run.started,
        "steps": lines[-1]["step"] if lines else 0,
        "planned_steps": run.planned_steps,
        "seconds_left": run.seconds_left,
        "size_bytes": run.size_bytes(),
        "model": _name(config.get("model")),
        "environment": _name(config.get("environment")),
        "before": measured.get("before"),
        "warm_start": measured.get("warm_start"),
        "after": measured.get("after") or measured.get("evaluation"),
        "curve": [line.get("reward") for line in lines],
    }


def _name(part: Any) -> str | None:
    """What a part of agent.yaml is called, which is written in full or as its name alone."""
    return part.get("name") if isinstance(part, Mapping) else part


def show_run(run_id: str, viewed: ViewedRun) -> dict[str, Any]:
    """A run's page, but for its metrics."""
    run = viewed.run
    return {
        "id": run_id,
        "name": run.name,
        "path": str(run.path),
        "kind": "evaluation" if run.is_evaluation else "training",
        "state": run.state,
        "started": run.started,
        "planned_steps": run.planned_steps,
        "seconds_left": run.seconds_left,
        "config": run.config,
        "report": run.report or None,
        "evaluations": run.evaluations(),
        "diagnosis": [found.as_dict() for found in run.diagnosis()],
        "index": viewed.index.progress().as_dict(),
        "series": sorted({name for line in _lines(viewed) for name in line} - set(NOT_SERIES)),
    }


def metrics(viewed: ViewedRun, after: int = 0, wait: float = 0.0) -> dict[str, Any]:
    """What was measured in each step after ``after``; ``wait``: for the index, which counts tools."""
    whole = viewed.is_whole(wait)
    lines = [line for line in _lines(viewed) if line["step"] > after]
    names = sorted({name for line in lines for name in line} - set(NOT_SERIES))
    return {
        "steps": [line["step"] for line in lines],
        "series": {name: [line.get(name) for line in lines] for name in names},
        "whole": whole,
    }


def _lines(viewed: ViewedRun) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, with the calls and errors of each tool as far as they are indexed."""
    lines = viewed.run.metric_lines()
    tools: dict[int, dict[str, int]] = {}
    try:
        with reading(viewed, wait=0) as database:
            for step, name, calls, errors in database.execute(
                "SELECT step, name, calls, errors FROM tools WHERE step IS NOT NULL AND name IN "
                "(SELECT name FROM tools GROUP BY name HAVING sum(calls) > sum(errors) OR sum(calls) * 50 > "
                "(SELECT sum(calls) FROM tools) ORDER BY sum(calls) DESC LIMIT ?)",
                (TOOLS,),
            ):
                tools.setdefault(step, {}).update(
                    {f"tools/{name}/calls": calls, f"tools/{name}/errors": errors}
                )
    except BusyError:
        return lines
    return [{**line, **tools.get(line["step"], {})} for line in lines]


def trajectories(viewed: ViewedRun, wanted: Wanted) -> dict[str, Any]:
    """A page of the run's trajectories."""
    with reading(viewed) as database:
        return find(database, wanted, viewed.advantages)


def groups(viewed: ViewedRun, step: int | None) -> dict[str, Any]:
    """The groups of a step, or of the last one."""
    with reading(viewed) as database:
        if step is None:
            (step,) = database.execute("SELECT max(step) FROM trajectories").fetchone()
        members = viewed.advantages.members(database, [str(step)])
    return {
        "step": step,
        "groups": [
            {
                "id": group,
                "task": rows[0]["task"],
                "step": step,
                "rewards": [row["reward"] for row in rows],
                "trajectories": [row["id"] for row in rows],
            }
            for group, rows in members.items()
        ],
    }


def group(viewed: ViewedRun, name: str) -> dict[str, Any]:
    """The trajectories of a group, whole, the best first. Raises ``RunError``."""
    label, _, _ = name.partition("/")
    with reading(viewed) as database:
        rows = viewed.advantages.members(database, [label]).get(name)
        if rows is None:
            raise RunError(f"the run has no group {name}")
        given = viewed.advantages.of(database, rows)
        whole = [(row, one(database, row["id"])) for row in rows]
    ordered = sorted(whole, key=lambda pair: (pair[0]["reward"] is None, -(pair[0]["reward"] or 0.0)))
    return {
        "id": name,
        "task": rows[0]["task"],
        "step": rows[0]["step"],
        "trajectories": [
            {
                **listed(row),
                "group": name,
                "advantage": given[row["id"]],
                "trajectory": _without_ledger(_record(viewed, place)),
            }
            for row, place in ordered
        ],
    }


def trajectory(viewed: ViewedRun, tid: str, trace_url: str | None = None) -> dict[str, Any]:
    """One trajectory, without its tokens; ``trace_url``: where traces are shown. Raises ``RunError``."""
    with reading(viewed) as database:
        row = one(database, tid)
        advantages = viewed.advantages
        given = advantages.of(database, [row])
    record = _record(viewed, row)
    trace = record.get("trace")
    return {
        "trajectory": _without_ledger(record),
        "agents": _agents(record),
        "group": advantages.group(row),
        "advantage": given[tid],
        "trace_id": trace,
        "trace_url": trace_url.replace("{trace_id}", trace) if trace and trace_url else None,
    }


def _record(viewed: ViewedRun, row: sqlite3.Row) -> dict[str, Any]:
    try:
        record: dict[str, Any] = orjson.loads(viewed.index.line(row))
    except (OSError, ValueError):
        raise BusyError("the file with this trajectory is being rewritten; ask again") from None
    return record


def _without_ledger(record: dict[str, Any]) -> dict[str, Any]:
    """Tokens have a page of their own: they are most of a record."""
    return {name: value for name, value in record.items() if name != "ledger"}


def _agents(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Which sequences are whose, if an app has several agents."""
    sequences = (record.get("ledger") or {}).get("sequences", ())
    roles: dict[str, list[int]] = {}
    for number, sequence in enumerate(sequences):
        roles.setdefault(sequence.get("role", ""), []).append(number)
    if len(roles) < 2:
        return None
    return [{"role": role, "sequences": numbers} for role, numbers in roles.items()]


def record_of(viewed: ViewedRun, tid: str) -> dict[str, Any]:
    """The record of a trajectory, tokens and all. Raises ``RunError``."""
    with reading(viewed) as database:
        row = one(database, tid)
    return _record(viewed, row)


def given_advantage(viewed: ViewedRun, tid: str) -> float | None:
    """The advantage that GRPO computed from its reward."""
    with reading(viewed) as database:
        return viewed.advantages.of(database, [one(database, tid)])[tid]


@contextmanager
def reading(viewed: ViewedRun, wait: float = MOMENT, whole: bool = False) -> Iterator[sqlite3.Connection]:
    """The run's index, brought up to date within ``wait`` seconds or as it is by then.

    Raises ``BusyError`` until there is one, and with ``whole`` until everything is in it.
    """
    if not viewed.is_whole(wait) and whole:
        raise BusyError(INDEXING)
    try:
        with viewed.index.reading() as database:
            yield database
    except sqlite3.OperationalError as problem:
        if "fts5" in str(problem):
            raise RunError("the search has a word that it cannot read") from None
        raise BusyError(INDEXING) from problem
