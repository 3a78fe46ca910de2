"""The prompts environment: users say the texts that they are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo_environments.splits import is_held_out
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message, user
from grpo_sdk.trajectory import Task


class PromptsEnvironment(Environment):
    """A user says a prompt, and after each answer the next of ``replies``; then the episode is done.

    It judges nothing: combine it with rewards that read what the agent said. ``outcome``:
    ``answered``, the number of the agent's messages.
    """

    def __init__(
        self,
        *,
        prompts: tuple[str, ...] = (),
        held_out: tuple[str, ...] = (),
        replies: tuple[str, ...] = (),
    ) -> None:
        """Set the options.

        ``prompts``: to train on; ``held_out``: to measure with; each one is a task. ``replies``: what
        every user says after the first, second, … answer. Raises ``ValueError`` for an empty text, or
        one prompt in both splits.
        """
        if not all(text.strip() for text in (*prompts, *held_out, *replies)):
            raise ValueError("prompts: a text is empty; leave it out")
        if both := set(prompts) & set(held_out):
            raise ValueError(f"prompts: {min(both)!r:.60} stands in prompts and in held_out")
        self._splits = {False: tuple(dict.fromkeys(prompts)), True: tuple(dict.fromkeys(held_out))}
        self._replies = tuple(replies)
        self._answered = 0

    def tasks(self, split: str) -> Sequence[Task]:
        prompts = self._splits[is_held_out(split)]
        return [Task(f"{split}-{index}", {"prompt": text}, split) for index, text in enumerate(prompts)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._answered = 0
        return Observation([user(task.data["prompt"])])

    async def step(self, action: Message) -> StepResult:
        self._answered += 1
        if self._answered > len(self._replies):
            return StepResult(done=True, outcome=self.outcome())
        return StepResult([user(self._replies[self._answered - 1])])

    def outcome(self) -> dict[str, Any]:
        return {"answered": self._answered}
