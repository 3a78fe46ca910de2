"""What every engine of ``bench.rollouts`` has to do."""

from __future__ import annotations

import os
from dataclasses import dataclass

from grpo_host.models.precision import fast_dtype

MODEL = os.environ.get("GRPO_BENCH_MODEL", "smollm2-135m")
"""``bench.gpu`` names a directory."""
TASKS, GROUP = 4, 8
EPISODES = TASKS * GROUP
LOOKUPS = 3
TURNS = LOOKUPS + 1
MAX_TOKENS = 32
CONTEXT = 1024
DTYPE = fast_dtype()
SYSTEM = "You work at an order desk. Look the order up, then answer in one short sentence."


@dataclass(frozen=True, slots=True)
class Measured:
    """What one engine did."""

    seconds: float
    turns: int
    tokens: int
    """Sampled by the model."""
