"""The support_desk environment. The customer is a script that looks for words: see ``customer.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo_environments.splits import is_held_out, require_between
from grpo_environments.support_desk.customer import Customer, Impression
from grpo_environments.support_desk.tasks import make_tasks
from grpo_environments.support_desk.topics import TOPIC_NAMES
from grpo_sdk.environment import Environment, Observation, StepResult
from grpo_sdk.messages import Message, user
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task


class SupportDeskEnvironment(Environment):
    """A customer with a problem writes, and answers back to what the agent says.

    He gives his order number, email address or account number when asked for it, and gets
    impatient if he is not understood or nothing is done. ``outcome``: ``score`` (the mean
    satisfaction over the agent's messages, in [0, 1]), ``success`` (all messages were heard and
    the mean is at least 0.7), ``empathised``, ``acted``, ``concrete`` (shares of the messages).
    Satisfaction is judged by words, so a policy can earn it with stock phrases; saying the same
    message again earns nothing.

    Openings, names, products and the customer's answers of the two splits are disjoint.
    """

    def __init__(
        self,
        *,
        customer_turns: int = 2,
        topics: tuple[str, ...] = TOPIC_NAMES,
        train_tasks: int = 256,
        held_out_tasks: int = 64,
        task_seed: int = 0,
    ) -> None:
        """Set the options.

        ``customer_turns``: messages of the customer, the first included; the agent answers each.
        ``topics``: what the customers write about. ``task_seed``: other tasks. Raises
        ``ValueError`` for an unknown topic or a number out of range.
        """
        require_between("customer_turns", customer_turns, 1, 20)
        require_between("train_tasks", train_tasks, 1, 1000)
        require_between("held_out_tasks", held_out_tasks, 1, 250)
        unknown = [topic for topic in topics if topic not in TOPIC_NAMES]
        if unknown or not topics:
            named = f"there is no {unknown[0]}" if unknown else "it is empty"
            raise ValueError(f"topics: {named}; choose from: {', '.join(TOPIC_NAMES)}")
        self._customer_turns = customer_turns
        self._topics = tuple(topics)
        self._counts = (train_tasks, held_out_tasks)
        self._task_seed = task_seed
        self._customer: Customer | None = None
        self._heard: list[str] = []
        self._impressions: list[Impression] = []

    def tasks(self, split: str) -> Sequence[Task]:
        return make_tasks(split, self._counts[is_held_out(split)], self._topics, self._task_seed)

    async def reset(self, task: Task, *, seed: int) -> Observation:
        # Not from the episode's seed: the samples of a group are to face the same customer.
        self._customer = Customer(
            task.data["thing"],
            task.data["detail"],
            task.data["value"],
            held_out=is_held_out(task.split),
            seed=derive_seed("support_desk", task.id),
        )
        self._heard = []
        self._impressions = []
        return Observation([user(task.data["message"])])

    async def step(self, action: Message) -> StepResult:
        if self._customer is None:
            raise RuntimeError("support_desk: reset comes before step")
        text = action["content"]
        impression = self._customer.notice(text, self._heard)
        self._heard.append(text)
        self._impressions.append(impression)
        if len(self._impressions) >= self._customer_turns:
            return StepResult(done=True, outcome=self.outcome())
        return StepResult([user(self._customer.reply(text, impression))])

    def outcome(self) -> dict[str, Any]:
        heard = self._impressions
        count = max(1, len(heard))
        # Messages that were never written count as nothing.
        score = sum(impression.satisfaction for impression in heard) / self._customer_turns
        return {
            "success": len(heard) >= self._customer_turns and score >= 0.7,
            "score": score,
            "empathised": sum(impression.empathised for impression in heard) / count,
            "acted": sum(impression.acted for impression in heard) / count,
            "concrete": sum(impression.concrete for impression in heard) / count,
        }
