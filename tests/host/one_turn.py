"""An environment that says one thing, and is done with the answer."""

from __future__ import annotations

from typing import Any

from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import user
from grpo_sdk.trajectory import Task


class OneTurn(Environment):
    says = "Where is K482?"

    def tasks(self, split: str) -> list[Task]:
        return [Task(f"{split}-{number}", split=split) for number in range(40)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation([user(self.says)])

    async def step(self, action: Any) -> StepResult:
        return StepResult(done=True)
