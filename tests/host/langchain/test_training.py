"""`grpo-host run` of an app that makes its own model: a process, a small random model, the real trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.runs.directory import RunDirectory

pytestmark = [pytest.mark.model, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[3] / "examples" / "langchain_shop"
SMALL = {
    "backend": "{name: transformers}",
    "sampling.max_tokens": "12",
    "training.steps": "2",
    "training.tasks_per_step": "2",
    "training.group_size": "2",
    "training.micro_batch": "2",
    "training.warm_start.epochs": "1",
    "training.warm_start.batch": "2",
    "training.warm_start.max_demonstrations": "4",
    "evaluation.episodes": "2",
}
NOISE = """\
from grpo_sdk import reward


@reward
def noise(trajectory) -> float:
    return sum(trajectory.ledger.sequences[-1].ids) % 97 / 97
"""
"""A reward that differs within a group: what a random model says is never right."""


def test_an_app_is_trained_as_it_is(tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.py").write_text(NOISE)
    settings = {
        **SMALL,
        "rewards": f"[{tmp_path}/noise.py:noise]",
        "model.name": str(tiny_model_path),
        "output": str(tmp_path),
    }
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "grpo_host.cli", "run", str(EXAMPLE / "redirect.yaml"), *changes],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": "none"},
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [directory] = [path.parent for path in tmp_path.glob("*/*/report.json")]
    run = RunDirectory(directory)
    report = run.read_report()
    assert report["warm_start_demonstrations"] == 4
    steps = run.read_metrics()
    assert [line["step"] for line in steps] == [1, 2]
    assert all(line["grad_norm"] > 0 for line in steps)
    trained = [item for item in run.read_trajectories() if item.id[0].isdigit()]
    assert len(trained) == 2 * 2 * 2
    for item in trained:
        assert item.status in ("completed", "truncated"), item.error  # its JSON is cut as often as not
        assert item.ledger.sampled == sum(turn.completion_tokens for turn in item.turns) > 0
        assert {(sequence.role, sequence.weight) for sequence in item.ledger.sequences} == {("shop", 1.0)}
    assert json.loads((directory / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
