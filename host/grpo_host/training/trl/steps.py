"""Steps of ours and of transformers, which counts each update of the weights as one.

A step of ours is a batch of episodes, with ``iterations`` times ``minibatches`` updates. What is written,
saved or stopped is so between two batches: the one under way is in no checkpoint.
"""

from __future__ import annotations

from typing import Any


def updates_per_step(args: Any) -> int:
    """How many updates the trainer with these arguments makes on a batch; 1 for one that plays none."""
    accumulation = args.gradient_accumulation_steps
    batches = getattr(args, "num_iterations", 1) * getattr(args, "steps_per_generation", accumulation)
    return int(batches // accumulation)


def step_under_way(args: Any, state: Any) -> int:
    """Counted from 1."""
    return int(state.global_step // updates_per_step(args)) + 1


def finished_steps(args: Any, state: Any) -> int | None:
    """How many steps are done; None if the last update was not the last of its batch."""
    steps, within = divmod(state.global_step, updates_per_step(args))
    return None if within else int(steps)
