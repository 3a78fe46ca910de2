"""A run's directory, and the commands that do not train. ``Run`` is for notebooks."""

from grpo_host.runs.run import Run

__all__ = ["Run"]
