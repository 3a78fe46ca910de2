"""The arithmetic environment: one problem, one answer, checked as a number."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from random import Random
from typing import Any

from grpo_environments.arithmetic.problems import new_problem
from grpo_environments.splits import is_held_out, require_between, require_rate
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message, assistant, tool_call, tool_result, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task

# The length is bounded: float() of thousands of digits is inf, and int() of them refuses.
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d{1,18})(?:\.\d{1,12})?(?![\d,]*\d)")

_ANSWERS = ("The answer is {n}.", "The result is {n}.", "That makes {n}.", "{e} = {n}.")


class ArithmeticEnvironment(Environment):
    """Poses a calculation; the last number of the agent's message is its answer.

    The environment brings no tool: list ``calculator`` under ``agent.tools``. ``outcome``:
    ``success``, ``score`` (1.0 right, 0.1 for naming some number, else 0.0), ``answer`` (the
    number read, or None), ``attempts``. Numbers, wordings and names of the splits are disjoint.
    """

    def __init__(
        self,
        *,
        largest: int = 50,
        word_problems: float = 0.5,
        attempts: int = 1,
        tolerance: float = 1e-6,
        train_tasks: int = 256,
        held_out_tasks: int = 64,
        task_seed: int = 0,
    ) -> None:
        """Set the options.

        ``largest``: greatest number of a problem. ``word_problems``: their share; the others are
        plain expressions. ``attempts``: messages that the agent has for an answer.
        ``tolerance``: relative. ``task_seed``: other tasks. Raises ``ValueError`` if one is
        out of range.
        """
        require_between("largest", largest, 20, 1_000_000)
        require_between("attempts", attempts, 1, 10)
        require_between("train_tasks", train_tasks, 1, 1000)
        require_between("held_out_tasks", held_out_tasks, 1, 250)
        require_rate("word_problems", word_problems)
        require_rate("tolerance", tolerance)
        self._largest = largest
        self._word_problems = word_problems
        self._attempts = attempts
        self._tolerance = tolerance
        self._task_seed = task_seed
        self._counts = (train_tasks, held_out_tasks)
        self._right: float = 0.0
        self._answer: float | None = None
        self._used = 0

    def tasks(self, split: str) -> Sequence[Task]:
        held_out = is_held_out(split)
        rng = Random(derive_seed("arithmetic", self._task_seed, split))
        found: dict[str, Task] = {}
        while len(found) < self._counts[held_out]:
            problem = new_problem(rng, held_out, self._largest, self._word_problems)
            data = {
                "question": problem.question,
                "expression": problem.expression,
                "answer": problem.answer,
            }
            if problem.question not in found:
                found[problem.question] = Task(f"{split}-{len(found):04d}", data, split)
        return list(found.values())

    def demonstrations(self, split: str) -> Sequence[list[Message]]:
        """Dialogues that call ``calculator`` once and state its result."""
        return [_demonstration(task) for task in self.tasks(split)]

    async def reset(self, task: Task, *, seed: int) -> Observation:
        self._right = float(task.data["answer"])
        self._answer = None
        self._used = 0
        return Observation([user(task.data["question"])])

    async def step(self, action: Message) -> StepResult:
        self._used += 1
        self._answer = last_number(action["content"])
        if self._is_right() or self._used >= self._attempts:
            return StepResult(done=True, outcome=self.outcome())
        return StepResult([user("That is not right. Please try again.")])

    def outcome(self) -> dict[str, Any]:
        right = self._is_right()
        score = 1.0 if right else 0.1 * (self._answer is not None)
        return {"success": right, "score": score, "answer": self._answer, "attempts": self._used}

    def _is_right(self) -> bool:
        return self._answer is not None and math.isclose(
            self._answer, self._right, rel_tol=self._tolerance, abs_tol=self._tolerance
        )


def last_number(text: str) -> float | None:
    """The last number of ``text``, or None."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _demonstration(task: Task) -> list[Message]:
    expression, answer = task.data["expression"], str(task.data["answer"])
    call = tool_call("calculator", json.dumps({"expression": expression}), "call_1")
    wording = Random(derive_seed("arithmetic", "demonstration", task.id)).choice(_ANSWERS)
    return [
        user(task.data["question"]),
        assistant("", [call]),
        tool_result(call, answer),
        assistant(wording.format(n=answer, e=expression)),
    ]
