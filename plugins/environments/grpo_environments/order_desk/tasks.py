"""Generates the tasks of the order desk: who asks what about which order."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from grpo_environments.order_desk.orders import new_facts, new_id
from grpo_environments.order_desk.phrases import HELD_OUT_PHRASES, TRAIN_PHRASES, CustomerPhrases
from grpo_environments.splits import is_held_out
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What shapes a task; see ``OrderDeskEnvironment``."""

    questions: int
    fields: tuple[str, ...]
    same_order_rate: float
    missing_rate: float
    withhold_id_rate: float
    task_seed: int


def make_tasks(split: str, count: int, options: TaskOptions) -> list[Task]:
    """``count`` tasks; the n-th is the same for every ``count``. All that happens is in their data."""
    held_out = is_held_out(split)
    phrases = HELD_OUT_PHRASES if held_out else TRAIN_PHRASES
    tasks = []
    for index in range(count):
        rng = Random(derive_seed("order_desk", options.task_seed, split, index))
        tasks.append(Task(f"{split}-{index:04d}", _data(rng, held_out, phrases, options), split))
    return tasks


def _data(rng: Random, held_out: bool, phrases: CustomerPhrases, options: TaskOptions) -> dict[str, Any]:
    orders: dict[str, dict[str, str]] = {}
    questions: list[dict[str, Any]] = []
    asked: set[tuple[str, str]] = set()
    for number in range(options.questions):
        previous = questions[-1]["order"] if questions else ""
        left = [field for field in options.fields if (previous, field) not in asked]
        # Nobody asks further about an order that he was told does not exist.
        same = bool(left) and previous in orders and rng.random() < options.same_order_rate
        if same:
            order, field = previous, rng.choice(left)
        else:
            order = new_id(rng, held_out)
            while any(order == question["order"] for question in questions):
                order = new_id(rng, held_out)
            field = rng.choice(options.fields)
            if rng.random() >= options.missing_rate:
                orders[order] = new_facts(rng)
        asked.add((order, field))
        withheld = number == 0 and rng.random() < options.withhold_id_rate
        wordings = phrases.further if same else phrases.opening if withheld else phrases.about
        text = rng.choice(wordings[field])
        questions.append(
            {
                "order": order,
                "field": field,
                "text": (rng.choice(phrases.thanks) if number else "") + text.format(id=order),
                "names_order": not (same or withheld),
                "gives_id": rng.choice(phrases.gives_id).format(id=order),
            }
        )
    name = rng.choice(phrases.names)
    questions[0]["text"] = rng.choice(phrases.greetings).format(name=name) + questions[0]["text"]
    return {"customer": name, "orders": orders, "questions": questions}
