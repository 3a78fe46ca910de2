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
    "rewards": "[{name: length, weight: 0.5}, {name: task_success, weight: 0.5}]",
    "training.steps": "2",
    "training.tasks_per_step": "2",
    "training.group_size": "2",
    "training.micro_batch": "2",
    "training.warm_start": "{epochs: 1, max_demonstrations: 4, batch: 2}",
    "evaluation.episodes": "2",
}


def test_an_app_is_trained_as_it_is(tiny_model_path: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "model.name": str(tiny_model_path), "output": str(tmp_path)}
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
        assert item.error is None
        assert item.ledger.sampled == sum(turn.completion_tokens for turn in item.turns) > 0
        assert {(sequence.role, sequence.weight) for sequence in item.ledger.sequences} == {("shop", 1.0)}
    assert json.loads((directory / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LORA"
