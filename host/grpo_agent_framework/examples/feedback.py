"""Rated conversations, as a shop's people might rate them."""

from __future__ import annotations

import random
from dataclasses import asdict
from itertools import product
from typing import TypeAlias

from grpo_agent_framework.examples import console
from grpo_agent_framework.rewards.ruler_reward import RulerReward
from grpo_rewards.neural import NeuralReward
from grpo_sdk.rewards import score_messages
from grpo_sdk.trajectory import Trajectory

Turns: TypeAlias = list[dict[str, str]]

PROBLEMS = {
    "my order has not arrived": "where your order is",
    "the lamp came broken": "a replacement for the lamp",
    "I was charged twice": "both charges",
    "I cannot sign in": "your account",
    "the shoes are too small": "a larger pair",
    "my voucher does not work": "why the voucher is refused",
    "the invoice has a wrong name": "the invoice",
    "I want to cancel my subscription": "the cancellation",
}

ANSWERS = [
    (0.95, "I'm sorry about that. I will look into {it} right away and write to you within the hour."),
    (0.90, "Thank you for telling us. Let me check {it} now; could you give me your order number?"),
    (0.85, "I understand how annoying this is. I am taking care of {it} and will tell you the result today."),
    (0.55, "Please send us an e-mail about {it}."),
    (0.50, "Somebody will look at {it} at some point."),
    (0.15, "That is not our fault. Read the terms before you write to us."),
    (0.10, "No."),
    (0.05, "You should have thought of that before. Stop bothering us about {it}."),
]


def rated_conversations() -> list[tuple[Turns, float]]:
    """Conversations with a person's rating of each, from 0 to 1, always in the same shuffled order."""
    rated = [
        (
            [
                {"role": "user", "content": f"Hello, {problem}."},
                {"role": "assistant", "content": answer.format(it=it)},
            ],
            score,
        )
        for (problem, it), (score, answer) in product(PROBLEMS.items(), ANSWERS)
    ]
    random.Random(0).shuffle(rated)
    return rated


UNSEEN: list[tuple[str, Turns]] = [
    (
        "helps",
        [
            {"role": "user", "content": "Hello, the coat I got has a hole."},
            {"role": "assistant", "content": "I'm sorry to hear that. I will send you a new coat today."},
        ],
    ),
    (
        "puts off",
        [
            {"role": "user", "content": "Hello, the coat I got has a hole."},
            {"role": "assistant", "content": "Please write to another department."},
        ],
    ),
    (
        "blames",
        [
            {"role": "user", "content": "Hello, the coat I got has a hole."},
            {"role": "assistant", "content": "That is your own fault. Stop complaining."},
        ],
    ),
]
"""Conversations that are not among the rated ones."""


async def teach(reward: NeuralReward) -> None:
    """Give ``reward`` the ratings, and ask it about conversations that are not among them."""
    for turns, score in rated_conversations():
        reward.add_trajectory_feedback(turns, score)
    with console.timed("it learns"):
        report = await reward.aupdate()
    told = {"ratings": report["feedback"], "ready": report["ready"], **(report["held_out"] or {})}
    console.figures("what it learned from, and how good it is on what it was not shown", told)
    rows = [
        (name, turns[-1]["content"], (await score_messages(reward, turns)).value) for name, turns in UNSEEN
    ]
    console.table("unseen answers", ("", "answer", "score"), rows)


async def judge(ruler: RulerReward) -> None:
    """Let ``ruler`` compare the unseen conversations."""
    names = [name for name, _ in UNSEEN]
    results = await ruler.score_group([Trajectory.of_messages(turns) for _, turns in UNSEEN])
    rows = [(name, result.value, result.explanation) for name, result in zip(names, results, strict=True)]
    console.table("judged against each other", ("answer", "score", "why"), rows)
    console.figures("the judge", asdict(ruler.usage))
