"""A strategy: who the agent is."""

from __future__ import annotations

from grpo_sdk import Strategy


def short_answers(*, words: int = 5) -> Strategy:
    """Make the strategy; `words`, the most words of an answer, is an option of agent.yaml."""
    return Strategy(
        "short_answers",
        system_prompt="You answer questions about numbers.",
        style=f"Answer in at most {words} words.",
    )
