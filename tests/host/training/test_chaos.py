"""The chaos bench in small: a run that gets kill -9 at six places ends as one that nobody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.model, pytest.mark.slow]


def test_a_killed_run_ends_with_the_same_weights_metrics_and_episodes(heavy: None, model_path: Path) -> None:
    command = [sys.executable, "-m", "bench.chaos", "--places", "--steps", "2", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
        check=True,
    )  # fmt: skip
    rows = {row["name"]: row["value"] for row in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert rows["kill -9"] == 6, done.stderr
    assert rows["runs that were killed, went on and ended"] >= 1
    different = {name: value for name, value in rows.items() if name.startswith("of them with other")}
    assert len(different) == 4
    assert not any(different.values()), (different, done.stderr)
