"""Training imports no engine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]

IMPORTED = """
import sys
import grpo_host.training.trl.grpo
print("vllm" in sys.modules)
from trl.generation.vllm_client import VLLMClient
try:
    VLLMClient()
except ImportError as problem:
    print(problem)
"""


def test_the_trainers_process_imports_no_vllm_and_says_so_where_trls_own_is_asked_for() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTED], capture_output=True, text=True, timeout=240
    )

    assert done.returncode == 0, done.stderr
    imported, problem = done.stdout.splitlines()
    assert imported == "False"
    assert "import trl.generation.vllm_generation before grpo_host's training" in problem
