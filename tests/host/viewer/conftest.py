"""Runs' directories written by hand, with the classes that a run writes them with."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from grpo_host.runs.directory import RunDirectory
from grpo_host.viewer.app import create_app
from grpo_sdk.trajectory import (
    Ledger,
    MessageSpan,
    RewardRecord,
    StopReason,
    Task,
    TokenSequence,
    ToolRun,
    Trajectory,
    Turn,
)

AGENT_YAML = """\
name: {name}
model: {{name: no-such-model}}
environment: {{name: shop}}
training: {{steps: 4, group_size: 2, tasks_per_step: 1, learning_rate: {rate}}}
"""


def _episode(
    label: str,
    task: str,
    sample: int | None = None,
    *,
    reward: float | None = 1.0,
    said: str = "It is shipped.",
    status: Any = "completed",
    tool_error: str | None = None,
    split: str = "train",
    success: bool | None = None,
) -> Trajectory:
    """An episode of one question, one look-up and one answer."""
    ids = [1, 2, 3, 4, 5, 6]
    return Trajectory(
        id=f"{label}/{task}" if sample is None else f"{label}/{task}/{sample}",
        environment="shop",
        task=Task(task, split=split),
        status=status,
        stop_reason=StopReason.DONE,
        messages=[
            {"role": "system", "content": "You help."},
            {"role": "user", "content": f"Where is {task}?"},
            {"role": "assistant", "content": said},
        ],
        turns=[Turn(3, 3, 0.1, "stop", [ToolRun("lookup", "c1", 0.1, tool_error)])],
        ledger=Ledger(
            [
                TokenSequence(
                    ids,
                    [0, 0, 0, 1, 1, 1],
                    [0.0, 0.0, 0.0, -0.1, -0.2, -0.3],
                    [-1, -1, -1, 3, 3, 3],
                    [MessageSpan(0, 1, "system"), MessageSpan(1, 3, "user"), MessageSpan(3, 6, "assistant")],
                )
            ]
        ),
        outcome={} if success is None else {"success": success},
        rewards={"right": RewardRecord(reward)},
        reward=reward,
        sample=sample or 0,
    )


def _make_run(
    output: Path, run_id: str = "20261128-100000-aaaa", *, name: str = "shop", rate: float = 0.1
) -> RunDirectory:
    """A run's directory with its settings and nothing else."""
    directory = RunDirectory(output / name / run_id)
    directory.path.mkdir(parents=True)
    directory.agent_yaml.write_text(AGENT_YAML.format(name=name, rate=rate))
    (directory.path / ".lock").touch()
    return directory


@pytest.fixture(scope="session")
def write_run() -> Callable[..., RunDirectory]:
    """Makes an empty run in a directory."""
    return _make_run


@pytest.fixture(scope="session")
def episode() -> Callable[..., Trajectory]:
    """Makes an episode."""
    return _episode


@pytest.fixture
def make_run(output: Path) -> Callable[..., RunDirectory]:
    """Makes an empty run."""
    return partial(_make_run, output)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where runs lie."""
    return tmp_path / "runs"


@pytest.fixture
def run(output: Path) -> RunDirectory:
    """A finished run of two steps: a held-out task before and after, a group of two in each step."""
    directory = _make_run(output)
    measured = {"split": "held_out", "episodes": 1, "failed": 0, "success": None}
    directory.write_json(
        directory.report,
        {
            "before": {**measured, "reward": {"mean": 0.1, "low": 0.0, "high": 0.2}},
            "after": {**measured, "reward": {"mean": 0.9, "low": 0.8, "high": 1.0}},
            "steps": 2,
        },
    )
    directory.append_trajectory(
        _episode("before", "h-1", reward=0.1, said="I do not know.", split="held_out")
    )
    for step in (1, 2):
        directory.append_metrics({"step": step, "time": 0.0, "reward": 0.5, "entropy": 1.0 / step})
        directory.append_trajectory(_episode(str(step), "t-1", 0, reward=1.0, success=True))
        directory.append_trajectory(
            _episode(str(step), "t-1", 1, reward=0.0, said="Perhaps delayed?", tool_error="no such order")
        )
    directory.append_trajectory(_episode("after", "h-1", reward=0.9, split="held_out"))
    return directory


class Viewer:
    """Asks a viewer of the runs in a directory."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, path: str, answers: int = 200, **query: Any) -> Any:
        """The JSON of an answer with this status."""
        answer = self.client.get(path, params=query or None)
        assert answer.status_code == answers, answer.text
        return answer.json()

    def indexed(self, run_id: str) -> dict[str, Any]:
        """The run's page, once all that there is is indexed."""
        for _ in range(500):
            shown: dict[str, Any] = self.get(f"/api/runs/{run_id}")
            if shown["index"]["state"] == "ready":
                return shown
            time.sleep(0.01)
        raise AssertionError("the index is not ready after five seconds")


@pytest.fixture
def viewer(output: Path) -> Any:
    """Opened without a token."""
    with TestClient(create_app(output)) as client:
        yield Viewer(client)
