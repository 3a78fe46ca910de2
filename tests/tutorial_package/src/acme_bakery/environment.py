"""The environment: a customer asks what some of an item cost."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from grpo_sdk import Environment, Message, Observation, StepResult, Task, assistant, tool_call, user
from grpo_sdk.messages import tool_result

from acme_bakery.tool import PRICES


class Counter(Environment):
    """The agent looks a price up, and answers with the total. Each episode has an instance."""

    def __init__(self, *, most: int = 9) -> None:
        self._most = most
        self._total = 0
        self._said = ""

    def tasks(self, split: str) -> Sequence[Task]:
        if split not in ("train", "held_out"):
            raise ValueError(f'there is no split "{split}"; the splits are train and held_out')
        return [
            Task(f"{count}-{item}", {"item": item, "count": count, "total": count * cents}, split)
            for count in range(2, self._most + 1)
            for item, cents in PRICES.items()
            if (count % 4 == 0) == (split == "held_out")
        ]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._total = task.data["total"]
        self._said = ""
        return Observation([asked(task)])

    async def step(self, action: Message) -> StepResult:
        self._said = action["content"]
        return StepResult(done=True, outcome=self.outcome())

    def outcome(self) -> dict[str, Any]:
        numbers = re.findall(r"\d+", self._said)
        return {"success": bool(numbers) and int(numbers[-1]) == self._total}

    def demonstrations(self, split: str) -> Sequence[list[Message]]:
        """How it is done: what a warm start imitates before GRPO begins."""
        dialogues = []
        for task in self.tasks(split):
            item, total = task.data["item"], task.data["total"]
            call = tool_call("price_of", json.dumps({"item": item}), "call_1")
            price = tool_result(call, str(PRICES[item]))
            dialogues.append([asked(task), assistant("", [call]), price, assistant(f"{total} cents")])
        return dialogues


def asked(task: Task) -> Message:
    return user(f"What do {task.data['count']} of {task.data['item']} cost?")
