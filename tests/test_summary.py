"""What a run of the tests says at its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = """
import pytest

def test_skipped():
    pytest.skip("docker is not installed")

@pytest.mark.skipif(True, reason="no GPU")
def test_left_out():
    pass
"""
LINES = ["test_a.py::test_left_out: no GPU", "test_a.py::test_skipped: docker is not installed"]


def run(place: Path, **environment: str) -> list[str]:
    (place / "test_a.py").write_text(TESTS)
    (place / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "test_a.py"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return sorted(line for line in done.stdout.splitlines() if line.startswith("skipped"))


def test_it_names_what_was_skipped_and_why(tmp_path):
    assert run(tmp_path, GRPO_SKIPPED_TESTS="") == [f"skipped {line}" for line in LINES]


def test_make_test_gathers_it_for_its_last_lines(tmp_path):
    assert run(tmp_path, GRPO_SKIPPED_TESTS=str(tmp_path / "skipped")) == []
    assert sorted((tmp_path / "skipped").read_text().splitlines()) == [f"skipped {line}" for line in LINES]
