"""What goes wrong in what the agent says: cut, short, long, the same again."""

from __future__ import annotations

from grpo_host.runs.rules.window import LENGTH, Said, Window

CUT = 0.5
"""More than this share of the replies cut at ``sampling.max_tokens`` are too many."""
GROWTH = 3.0
"""Replies of more than this times the first steps' tokens have grown too long."""
DUPLICATES = 0.5
"""More than this share of episodes that repeat another of their group are too many."""
REPETITION = 0.3
"""More than this share of the replies said again within a reply is a loop."""


def cut(window: Window) -> Said | None:
    share = window.mean("rollouts/cut")
    if share is None or share <= CUT:
        return None
    return Said(
        f"{share:.0%} of the replies were cut at sampling.max_tokens. They are scored as they stand, and "
        "the policy never learns to end one",
        "Raise sampling.max_tokens, or add a reward for short replies (length)",
    )


def shorter(window: Window) -> Said | None:
    moved = window.moved("rollouts/tokens_per_turn")
    if moved is None or moved[1] >= LENGTH * moved[0]:
        return None
    return Said(
        f"replies shrank from {moved[0]:.0f} tokens in the first steps to {moved[1]:.0f}",
        "Read some in trajectories.jsonl: if they are worth less than their reward says, add a reward that "
        "short replies do not satisfy, or lower training.learning_rate",
    )


def longer(window: Window) -> Said | None:
    moved = window.moved("rollouts/tokens_per_turn")
    if moved is None or moved[1] <= GROWTH * moved[0]:
        return None
    return Said(
        f"replies grew from {moved[0]:.0f} tokens in the first steps to {moved[1]:.0f}",
        "Read some: if a reward pays for length, lower its weight, or add one for short replies (length)",
    )


def duplicates(window: Window) -> Said | None:
    share = window.mean("rollouts/duplicates")
    if share is None or share <= DUPLICATES:
        return None
    return Said(
        f"{share:.0%} of the episodes say word for word what another of their group says, so the group is "
        "smaller than it looks",
        "Raise sampling.temperature, or lower training.learning_rate; if the answers are right, take harder "
        "tasks",
    )


def repetition(window: Window) -> Said | None:
    share = window.mean("rollouts/repetition")
    if share is None or share <= REPETITION:
        return None
    return Said(
        f"{share:.0%} of what a reply says it has said before: replies go round in a loop",
        "Read the longest. Lower training.learning_rate, hold the policy with training.beta, or raise "
        "sampling.temperature; if a reward pays for length, lower its weight",
    )


def forks(window: Window) -> Said | None:
    share = window.share("rollouts/forks", "rollouts/episodes")
    if share is None or share <= 1.0:
        return None
    return Said(
        f"an episode has {1 + share:.1f} contexts: the chat template, or the app, rewrites its history",
        "All are trained. If no app means to, take a template that only adds to what there is",
    )
