"""A good plugin: a reward, a tool and an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_sdk import Environment, Message, Observation, StepResult, Task, Trajectory, hookimpl, reward, user

GRPO_HOOK_API = (1, 1)


@reward
def acme_politeness(trajectory: Trajectory, *, word: str = "please") -> float:
    """Share of the policy's messages that contain ``word``."""
    said = [message["content"].lower() for message in trajectory.policy_messages]
    return sum(word in text for text in said) / max(1, len(said))


def acme_dice(*, sides: int = 6) -> Callable[[int], str]:
    """A die that always shows its highest side."""

    def acme_dice(times: int) -> str:
        """Throw the die.

        Args:
            times: How often.
        """
        if not 1 <= times <= 100:
            raise ValueError("times must be from 1 to 100")
        return " ".join([str(sides)] * times)

    return acme_dice


class AcmeEcho(Environment):
    """The agent has to repeat a word."""

    def __init__(self, *, attempts: int = 1) -> None:
        self._attempts = attempts
        self._word = ""
        self._heard: list[str] = []

    def tasks(self, split: str) -> Sequence[Task]:
        words = {"train": ("apple", "pear", "plum", "fig"), "held_out": ("lemon", "lime")}
        if split not in words:
            raise ValueError(f'no split "{split}"; the splits are train and held_out')
        return [Task(f"{split}-{word}", {"word": word}, split) for word in words[split]]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._word = task.data["word"]
        self._heard = []
        return Observation([user(f"Please say: {self._word}")])

    async def step(self, action: Message) -> StepResult:
        self._heard.append(action["content"])
        if self.outcome()["success"] or len(self._heard) >= self._attempts:
            return StepResult(done=True, outcome=self.outcome())
        return StepResult([user(f"No. Please say: {self._word}")])

    def outcome(self) -> dict[str, Any]:
        return {"success": bool(self._heard) and self._word in self._heard[-1]}


@hookimpl
def grpo_rewards() -> Mapping[str, Any]:
    return {"acme_politeness": acme_politeness}


@hookimpl
def grpo_tools() -> Mapping[str, Any]:
    return {"acme_dice": acme_dice}


@hookimpl
def grpo_environments() -> Mapping[str, Any]:
    return {"acme_echo": AcmeEcho}
