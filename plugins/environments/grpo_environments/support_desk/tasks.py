"""Generates the customers of the support desk."""

from __future__ import annotations

from random import Random
from typing import Any

from grpo_environments.splits import is_held_out
from grpo_environments.support_desk.topics import GREETINGS, MOODS, NAMES, PRODUCTS, TIMES, TOPICS, Topic
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Task


def make_tasks(split: str, count: int, topics: tuple[str, ...], task_seed: int) -> list[Task]:
    """``count`` different openings, over ``topics`` in turn; the n-th is the same for every ``count``."""
    held_out = is_held_out(split)
    chosen = [topic for topic in TOPICS if topic.name in topics]
    rng = Random(derive_seed("support_desk", task_seed, split))
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        data = _data(rng, chosen[len(tasks) % len(chosen)], held_out)
        if data["message"] not in tasks:
            tasks[data["message"]] = Task(f"{split}-{len(tasks):04d}", data, split)
    return list(tasks.values())


def _data(rng: Random, topic: Topic, held_out: bool) -> dict[str, Any]:
    name = rng.choice(NAMES[held_out])
    # Even amounts in train, odd ones held out.
    amount = 2 * rng.randint(5, 99) + held_out
    opening = rng.choice(topic.held_out if held_out else topic.train).format(
        product=rng.choice(PRODUCTS[held_out]), time=rng.choice(TIMES[held_out]), amount=amount
    )
    greeting = rng.choice(GREETINGS[held_out]).format(name=name)
    return {
        "topic": topic.name,
        "customer": name,
        "message": greeting + opening + rng.choice(MOODS[held_out]),
        "thing": topic.thing,
        "detail": topic.detail,
        "value": _value(rng, topic.detail, name),
    }


def _value(rng: Random, detail: str, name: str) -> str:
    number = rng.randint(1000, 9999)
    return f"{name.lower()}{number % 100}@example.com" if detail == "email address" else str(number)
