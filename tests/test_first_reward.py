"""docs/first-reward.md, followed as it is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.runs.directory import RunDirectory

PAGE = (Path(__file__).parent.parent / "docs" / "first-reward.md").read_text()


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.mark.model
def test_a_reward_in_a_file_of_eight_lines_trains_by_one_command_from_an_empty_folder(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    program = re.findall(r"`python -c '(.*?)' > rows.jsonl`", PAGE)[0]
    rows = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert rows.startswith(block("json"))
    assert all(json.loads(row) for row in rows.splitlines())
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "my.py").write_text(block("python"))
    (tmp_path / "agent.yaml").write_text(block("yaml"))
    assert len(block("python").splitlines()) <= 8

    done = subprocess.run(
        [
            *(sys.executable, "-m", "grpo_host.cli", "run", "agent.yaml"),
            *("--set", f"model.name={tiny_model_path}", "--set", "training.steps=1"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )

    assert done.returncode == 0, done.stderr
    run = RunDirectory.find(tmp_path / "runs", "sums")
    (line,) = run.read_metrics()
    assert line["rollouts/episodes"] == 36
    assert "rewards/exact/mean" in line
    assert {t.environment for t in run.read_trajectories()} == {"dataset"}
