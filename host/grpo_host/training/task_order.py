"""The order in which a run plays its tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence

from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task


def task_order(tasks: Sequence[Task], steps: int, per_step: int, *, seed: int) -> list[Task]:
    """``steps * per_step`` tasks: every task once before any comes again, each round shuffled anew."""
    order: list[Task] = []
    generator = random.Random(derive_seed(seed, "task-order"))
    while len(order) < steps * per_step:
        round_ = list(tasks)
        generator.shuffle(round_)
        order += round_
    return order[: steps * per_step]
