"""An environment: it poses tasks, plays the user, and says when an episode is done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from grpo_sdk import Environment, Message, Observation, StepResult, Task, user


class Sums(Environment):
    """Asks for a sum, and judges by the last number of the answer. Each episode has an instance.

    `attempts`, how often the agent may answer, is an option of agent.yaml.
    """

    def __init__(self, *, attempts: int = 1) -> None:
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}; give 1 or more")
        self._attempts = attempts
        self._right = 0
        self._said: list[str] = []

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in ("train", "held_out"):
            raise ValueError(f'there is no split "{split}"; the splits are train and held_out')
        sums = [(a, b) for a in range(2, 12) for b in range(2, 8)]
        # No sum may be in both splits: what was trained on says nothing of what was learned.
        chosen = [(a, b) for a, b in sums if ((2 * a + b) % 5 == 0) == (split == "held_out")]
        return [
            Task(f"{a}+{b}", {"question": f"What is {a} + {b}?", "answer": a + b}, split) for a, b in chosen
        ]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._right = task.data["answer"]
        self._said = []
        return Observation([user(task.data["question"])])

    async def step(self, action: Message) -> StepResult:
        self._said.append(action["content"])
        outcome = self.outcome()
        if outcome["success"] or len(self._said) >= self._attempts:
            return StepResult(done=True, outcome=outcome)
        return StepResult([user("That is not right. Please try again.")])

    def outcome(self) -> dict[str, Any]:
        """What the reward `task_success` reads; also asked for if a limit ends the episode."""
        numbers = re.findall(r"\d+", self._said[-1]) if self._said else []
        success = bool(numbers) and numbers[-1].lstrip("0") == str(self._right)
        return {"success": success, "attempts": len(self._said)}
